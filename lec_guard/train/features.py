"""The features of labelled texts, collected once: one pass a window gives every candidate layer and pooling.

They lie on disk, each block in a file of its own, and are read as memory maps: what a sweep over layers holds in
memory is the block that it fits. Half precision is enough for a regression: it rounds by a part in two thousand at
most, less than other batches of the same model differ in bfloat16, and it halves the disk and the reading. Some
decoders have states beyond its range, though; a block in which one turns up is kept in single precision from then on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Self

import numpy as np
import numpy.typing as npt

from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.pairs import Kept, PairReader, UnreadContextError
from lec_guard.detect.windows import Window
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.fit import Floats, Ints

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""

_DESCRIPTION = "features.json"
_OWNER = "owner.npy"
_FORMAT = 1
_WINDOWS, _TOKENS, _BYTES = 1024, 65_536, 2**26
"""A chunk ends at so many windows, tokens, or bytes of features: it bounds memory, and what an interruption loses."""
_PIECE = 65_536
"""Rows that are converted or summed at once."""
_HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of every window of every text, each block in its own memory-mapped file.

    Attributes:
        folder: Where they lie.
        blocks: Layers and poolings that were collected.
        owner: The text of each window, `[windows]`; never falls.
        texts: How many texts there were.
        digest: Hash over what fixes the features: the extractor, the texts, the blocks.
    """

    folder: Path
    blocks: tuple[Block, ...]
    owner: Ints
    texts: int
    digest: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Open what `collect` wrote.

        Args:
            folder: The folder.

        Returns:
            The features; nothing but `owner` is read yet.

        Raises:
            UnsupportedValueError: If the folder holds none, or not all of them yet.
        """
        found = _described(folder)
        if found is None or not found["complete"]:
            raise UnsupportedValueError(f"{folder}: features are missing or not complete: collect them (again) first")
        blocks = tuple(Block(**block) for block in found["blocks"])
        own = {key: found[key] for key in ("format", "extractor_id", "texts_sha256", "blocks")}
        digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()
        owner = np.load(folder / _OWNER, allow_pickle=False)
        # Absolute, because worker processes that are kept for the next call may have been started elsewhere.
        return cls(folder=folder.absolute(), blocks=blocks, owner=owner, texts=found["texts"], digest=digest)

    @property
    def unread(self) -> Ints:
        """The texts that hold no token, and so have no window: nothing can be learned from them, `[texts]`."""
        return np.flatnonzero(np.bincount(self.owner, minlength=self.texts) == 0)

    def of(self, blocks: Sequence[Block], windows: npt.NDArray[Any] | slice | None = None) -> Floats:
        """Read blocks, side by side.

        Args:
            blocks: Which, in order.
            windows: Which windows: positions, a mask or a slice; None for all.

        Returns:
            `[windows, width of the blocks]`.

        Raises:
            UnsupportedValueError: If a block was not collected.
        """
        files = [self._open(block) for block in blocks]
        chosen = slice(None) if windows is None else windows
        # A mask over a memory map reads all of it; positions read what they name.
        if isinstance(chosen, np.ndarray) and chosen.dtype == np.bool_:
            chosen = np.flatnonzero(chosen)
        return np.concatenate([file[chosen] for file in files], axis=1, dtype=np.float32)

    def means(self, blocks: Sequence[Block]) -> Floats:
        """The mean over each text's windows, as `lec_guard.detect.pairs.Meeting.read` has it of a context.

        Args:
            blocks: Which, in order.

        Returns:
            `[texts, width of the blocks]`.

        Raises:
            UnsupportedValueError: If a block was not collected, or a text has no window.
        """
        if len(self.unread):
            raise UnsupportedValueError(f"{_named(self.unread)} no token: leave them out; nothing has no mean")
        total: npt.NDArray[np.float64] | None = None
        for start in range(0, len(self.owner), _PIECE):
            rows = self.of(blocks, slice(start, start + _PIECE))
            total = np.zeros((self.texts, rows.shape[1])) if total is None else total
            np.add.at(total, self.owner[start : start + _PIECE], rows)
        if total is None:
            return np.zeros((0, 0), np.float32)
        return np.asarray(total / np.bincount(self.owner)[:, None], np.float32)

    def _open(self, block: Block) -> npt.NDArray[Any]:
        if block not in self.blocks:
            had = ", ".join(describe(one) for one in self.blocks)
            raise UnsupportedValueError(f"{self.folder}: {describe(block)} was not collected, only {had}")
        opened: npt.NDArray[Any] = np.load(self.folder / file_name(block), mmap_mode="r", allow_pickle=False)
        return opened


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFeatures:
    """Features of the contexts that texts come with, each different one once.

    Attributes:
        features: Those of the contexts' windows.
        rows: The context of each text, or -1 for none, `[texts]`.
    """

    features: Features
    rows: Ints

    def of(self, blocks: Sequence[Block]) -> Floats:
        """What a pair head meets.

        Args:
            blocks: Which, in order.

        Returns:
            `[contexts, width of the blocks]`: the mean over each context's windows.

        Raises:
            UnsupportedValueError: If a block was not collected, or a context holds no token.
        """
        return self.features.means(blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts(Generic[Kept]):
    """What each text is read with, where that is no input of its own but stands before the text.

    Attributes:
        of_texts: That of each text; None, or an empty one, for none.
        reader: Reads texts with it; its features are as wide as those of texts alone.
    """

    of_texts: Sequence[str | None]
    reader: PairReader[Kept]

    def features(self, extractor: Extractor, owner: Ints, windows: Sequence[Window]) -> Floats:
        """Features of windows, each read with the context of its text.

        Args:
            extractor: Reads those without one.
            owner: The text of each window, `[windows]`.
            windows: The windows.

        Returns:
            `[windows, width]`.

        Raises:
            UnsupportedValueError: If a context can't be read whole.
        """
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(owner.tolist()):
            rows.setdefault(self.of_texts[text] or "", []).append(row)
        found = np.empty((len(windows), extractor.backend.width), np.float32)
        for context, own in rows.items():
            some = [windows[row] for row in own]
            if not context or context.isspace():
                found[own] = extractor.features(some)
                continue
            try:
                found[own] = self.reader.features(some, found[own], self.reader.read(context))
            except UnreadContextError as error:
                raise UnsupportedValueError(f"text {owner[own[0]]} (from 0): {error}") from None
        return found


def collect(
    extractor: Extractor,
    texts: Sequence[str],
    folder: Path,
    *,
    blocks: Sequence[Block],
    contexts: Contexts[Any] | None = None,
    sources: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Features:
    """Read texts once and write the features of their windows, as the texts are.

    A run that was interrupted goes on after the last chunk that was written whole, and ends with the same bytes as
    one that was not. Memory holds one chunk, whatever the texts' number and length.

    Args:
        extractor: Reads the windows; made with these blocks, in this order.
        texts: The texts.
        folder: Where the features go; made where it is missing.
        blocks: What the extractor's feature vectors are made of.
        contexts: What texts are read with; None: all are read alone.
        sources: What errors call each text; None names it by its position.
        progress: Called after each chunk with characters read and characters in all, to which time is proportional.

    Returns:
        The features. Texts without any token are named by its `unread`.

    Raises:
        UnsupportedValueError: If the folder holds features of another extractor, of other texts or blocks, or is
            damaged; if the blocks are not those of the extractor; or if a feature is not a finite number.
    """
    if not blocks or len(set(blocks)) != len(blocks) or extractor.backend.width % len(blocks):
        raise UnsupportedValueError(
            f"{len(blocks)} blocks don't make feature vectors {extractor.backend.width} wide: "
            "give the blocks that the extractor was made with, each once"
        )
    if sources is not None and len(sources) != len(texts):
        raise UnsupportedValueError(f"{len(sources)} sources for {len(texts)} texts: give one each, or None")
    folder.mkdir(parents=True, exist_ok=True)
    asked = {
        "format": _FORMAT,
        "blocks": [asdict(block) for block in blocks],
        "extractor_id": extractor.extractor_id,
        "texts": len(texts),
        "texts_sha256": _hash(texts if contexts is None else [*texts, *(one or "" for one in contexts.of_texts)]),
    }
    found = _described(folder)
    if found is None:
        found = {**asked, "windows": 0, "complete": False}
    _check_same(folder, found, asked)
    if not found["complete"]:
        _go_on(extractor, texts, folder, tuple(blocks), found, contexts, sources, progress)
    return Features.read(folder)


def collect_contexts(
    extractor: Extractor,
    contexts: Sequence[str | None],
    folder: Path,
    *,
    blocks: Sequence[Block],
    progress: Progress | None = None,
) -> ContextFeatures:
    """Read what texts come with, each different context once; otherwise as `collect`.

    Args:
        extractor: Reads the windows; made with these blocks, in this order.
        contexts: That of each text; None, or an empty one, for none.
        folder: Where the features go; not the folder of the texts.
        blocks: What the extractor's feature vectors are made of.
        progress: See `collect`.

    Returns:
        The features.

    Raises:
        UnsupportedValueError: As `collect` does.
    """
    different = sorted({context for context in contexts if context})
    number = {context: row for row, context in enumerate(different)}
    first = {context: row for row, context in reversed(list(enumerate(contexts))) if context}
    sources = [f"the context of text {first[context]}" for context in different]
    features = collect(extractor, different, folder, blocks=blocks, sources=sources, progress=progress)
    rows = np.array([number[context] if context else -1 for context in contexts], np.int64)
    return ContextFeatures(features=features, rows=rows)


def file_name(block: Block) -> str:
    """The file of a block.

    Args:
        block: Layer and pooling.

    Returns:
        Its name, without the folder.
    """
    return "_".join(map(str, (block.layer, block.pooling, *(() if block.gate is None else (block.gate,))))) + ".npy"


def describe(block: Block) -> str:
    """A block as messages and reports name it.

    Args:
        block: Layer and pooling.

    Returns:
        Such as `layer 4 mean`.
    """
    return f"layer {block.layer} {block.pooling}" + ("" if block.gate is None else f" by gate {block.gate}")


def _go_on(
    extractor: Extractor,
    texts: Sequence[str],
    folder: Path,
    blocks: tuple[Block, ...],
    state: dict[str, Any],
    contexts: Contexts[Any] | None,
    sources: Sequence[str] | None,
    progress: Progress | None,
) -> None:
    width = extractor.backend.width // len(blocks)
    done = state["windows"]
    ends = np.cumsum([len(text) for text in texts])
    with ExitStack() as opened:
        half, whole = np.dtype(np.float16), np.dtype(np.int64)
        files = [opened.enter_context(_File(folder / file_name(block), half, (width,), done)) for block in blocks]
        owners = opened.enter_context(_File(folder / _OWNER, whole, (), done))
        for chunk in _chunks(_windows(extractor, texts, owners.rows()), extractor.backend.width):
            owner = np.array([text for text, _ in chunk], np.int64)
            windows = [window for _, window in chunk]
            features = extractor.features(windows) if contexts is None else contexts.features(extractor, owner, windows)
            _check_finite(features, owner, blocks, sources)
            for number, file in enumerate(files):
                file.add(features[:, number * width : (number + 1) * width])
            owners.add(owner)
            # The number of rows that count is written last: what a crash leaves beyond it is cut off again.
            for file in (*files, owners):
                file.flush()
            state["windows"] += len(chunk)
            _write(folder, state)
            if progress:
                progress(int(ends[owner[-1]]), int(ends[-1]))
        for file in (*files, owners):
            file.flush()
    state["complete"] = True
    _write(folder, state)
    if progress and len(texts):
        progress(int(ends[-1]), int(ends[-1]))


def _windows(extractor: Extractor, texts: Sequence[str], owner: Ints) -> Iterator[tuple[int, Window]]:
    """Text and window, after those whose owners are known: a last text of them may have more."""
    first = int(owner[-1]) if len(owner) else 0
    skip = int((owner == first).sum())
    for number in range(first, len(texts)):
        # Not as meant: an attack that was hidden teaches nothing about attacks that were not.
        for at, window in enumerate(extractor.windower.windows(texts[number], as_meant=False)):
            if number > first or at >= skip:
                yield number, window


def _chunks(windows: Iterator[tuple[int, Window]], width: int) -> Iterator[list[tuple[int, Window]]]:
    """Windows in their order; the extractor puts those of like length in a batch, from the long end."""
    most = max(min(_WINDOWS, _BYTES // (4 * width)), 1)
    chunk: list[tuple[int, Window]] = []
    tokens = 0
    for number, window in windows:
        chunk.append((number, window))
        tokens += len(window.ids)
        if len(chunk) >= most or tokens >= _TOKENS:
            yield chunk
            chunk, tokens = [], 0
    if chunk:
        yield chunk


class _File:
    """A `.npy` file that rows are added to, of which the first `rows` count."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], rows: int) -> None:
        self._path, self._shape, self._count = path, shape, rows
        if not rows:
            path.unlink(missing_ok=True)
            path.touch()
        try:
            self._file = path.open("r+b")
        except OSError as error:
            raise _damaged(path) from error
        try:
            self._dtype = self._stored() if rows else dtype
            if not rows:
                self._header()
            start = self._file.tell()
            if rows and path.stat().st_size < start + rows * self._row_bytes:
                raise _damaged(path)
            self._file.truncate(start + rows * self._row_bytes)
            self._file.seek(0, os.SEEK_END)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def _row_bytes(self) -> int:
        return self._dtype.itemsize * int(np.prod(self._shape))

    def rows(self) -> npt.NDArray[Any]:
        """Those that count, copied."""
        self.flush()
        return np.array(np.load(self._path, mmap_mode="r", allow_pickle=False))

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add rows; the file turns to single precision where half can't hold them."""
        if self._dtype == np.float16 and np.abs(rows).max(initial=0.0) > _HALF_MAX:
            self._widen()
        self._file.write(np.ascontiguousarray(rows, self._dtype).tobytes())
        self._count += len(rows)

    def flush(self) -> None:
        """Bring everything to the disk, with a header that says how many rows there are."""
        self._file.seek(0)
        self._header()
        self._file.seek(0, os.SEEK_END)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _stored(self) -> np.dtype[Any]:
        """What the file's own header says, and the rows follow."""
        try:
            np.lib.format.read_magic(self._file)
            dtype: np.dtype[Any] = np.lib.format.read_array_header_1_0(self._file)[2]
        except ValueError as error:
            raise _damaged(self._path) from error
        return dtype

    def _header(self) -> None:
        # NumPy leaves room in it for any number of rows, so that it can be written anew in its place.
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self._count, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def _widen(self) -> None:
        self.flush()
        narrow = np.load(self._path, mmap_mode="r", allow_pickle=False)
        beside = self._path.with_suffix(".wide")
        with beside.open("w+b") as file:
            self._dtype = np.dtype(np.float32)
            self._file.close()
            self._file = file
            self._header()
            for start in range(0, len(narrow), _PIECE):
                file.write(narrow[start : start + _PIECE].astype(np.float32).tobytes())
            file.flush()
            os.fsync(file.fileno())
        del narrow  # Some systems replace no file that is open.
        beside.replace(self._path)
        self._file = self._path.open("r+b")
        self._file.seek(0, os.SEEK_END)


def _check_finite(features: Floats, owner: Ints, blocks: tuple[Block, ...], sources: Sequence[str] | None) -> None:
    if np.isfinite(features).all():
        return
    window, column = np.argwhere(~np.isfinite(features))[0]
    text = int(owner[window])
    block = blocks[column * len(blocks) // features.shape[1]]
    raise UnsupportedValueError(
        f"{sources[text] if sources else f'text {text}'}: {describe(block)} gives {features[window, column]}, "
        "which is no finite number: leave the text out, leave out that layer, or compute in fp32"
    )


def _described(folder: Path) -> dict[str, Any] | None:
    """What the folder says of itself; None where there is nothing."""
    try:
        content = (folder / _DESCRIPTION).read_bytes()
    except FileNotFoundError:
        return None
    try:
        found: dict[str, Any] = json.loads(content)
        if found["format"] != _FORMAT or not {"extractor_id", "texts_sha256", "windows", "complete"} <= found.keys():
            raise ValueError
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / _DESCRIPTION) from error
    return found


def _check_same(folder: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse what was made for something else; blocks first, because an extractor's id depends on them."""
    for key, what in (
        ("blocks", "of other layers or poolings"),
        ("extractor_id", "of another extractor"),
        ("texts", f"of {found['texts']} texts, not {asked['texts']}"),
        ("texts_sha256", "of other texts"),
    ):
        if found[key] != asked[key]:
            raise UnsupportedValueError(
                f"{folder}: holds features {what}: give another folder, or delete this one to collect them anew"
            )


def _write(folder: Path, state: dict[str, Any]) -> None:
    """Replace the description in one step."""
    beside = folder / f"{_DESCRIPTION}.new"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(folder / _DESCRIPTION)


def _damaged(path: Path) -> UnsupportedValueError:
    return UnsupportedValueError(f"{path}: damaged or missing: delete the folder to collect its features anew")


def _hash(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def _named(texts: Ints) -> str:
    some = ", ".join(map(str, texts[:5])) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
    return f"texts {some} (of positions from 0) hold" if len(texts) > 1 else f"text {some} (from 0) holds"
