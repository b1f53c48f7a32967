"""What `lec-guard train` and its like are to do: a YAML file, and flags that override it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lec_guard.detect.turns import Role
from lec_guard.detect.windows import WindowSpec
from lec_guard.errors import PolicyError, UnsupportedValueError
from lec_guard.policy.document import Document, KeyPath, read_document
from lec_guard.policy.schema import nearest
from lec_guard.step import Stage
from lec_guard.train.data import Columns, Conflicts
from lec_guard.train.labels import LABEL, LabelRules, Positive

TrainPooling = Literal["mean", "max", "first", "last"]
"""Poolings that need nothing learnt."""

Run = TypeVar("Run", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Windows(_Part):
    """How texts are cut; see `lec_guard.detect.windows.WindowSpec`.

    Attributes:
        size: Tokens in a window at most.
        stride: Tokens from one window of a long sentence to the next.
        least: Tokens of text in a window at least, where the text has as many.
    """

    size: Annotated[int, Field(gt=0)] = 64
    stride: Annotated[int, Field(gt=0)] = 31
    least: Annotated[int, Field(gt=0)] = 10

    @property
    def spec(self) -> WindowSpec:
        """The same for an extractor."""
        return WindowSpec(size=self.size, stride=self.stride, least=self.least)


class LabelledData(_Part):
    """The part of a run that says what labelled texts to read, and how.

    Attributes:
        data: Files or folders with labelled texts.
        columns: Which column holds what.
        benign: The label of harmless texts; None takes the one that has a known name.
        positive: What to call the other class where labels are numbers or truth values.
        allow_labels: Labels that look like typos of others, but are meant.
        on_conflict: Whether texts with several labels are an error, or dropped.
        sample: Rows to take of each label, at most; None takes all.
        stage: The stage of rows that name none.
    """

    data: Annotated[tuple[Path, ...], Field(min_length=1)]
    columns: Columns = Columns()
    benign: str | None = None
    positive: Positive = "harmful"
    allow_labels: tuple[str, ...] = ()
    on_conflict: Conflicts = "error"
    sample: Annotated[int, Field(gt=0)] | None = None
    stage: Stage = "input"

    @field_validator("data", mode="before")
    @classmethod
    def _one_path(cls, data: object) -> object:
        return (data,) if isinstance(data, str | Path) else data

    @field_validator("benign", "allow_labels", mode="before")
    @classmethod
    def _words(cls, value: object) -> object:
        if isinstance(value, list | tuple):
            return tuple(cls._words(one) for one in value)
        if isinstance(value, bool):
            # YAML takes `no` and `off` for the same as `false`.
            raise ValueError("put the label in quotes: YAML reads this word as a truth value")
        return str(value) if isinstance(value, int) else value

    @property
    def labels(self) -> LabelRules:
        """What labels mean."""
        return LabelRules(benign=self.benign, positive=self.positive, allow_labels=self.allow_labels)


class DataConfig(LabelledData):
    """A run that fits a head; see `LabelledData` for what it reads.

    Attributes:
        head: What policies call the head.
        penalties: Values of C, the inverse strength of the L2 penalty on standardised features.
        window: How texts are cut.
        max_fpr: The share of benign texts that may be taken for harmful.
    """

    head: Annotated[str, Field(pattern=LABEL)]
    penalties: Annotated[
        tuple[Annotated[float, Field(gt=0.0, allow_inf_nan=False)], ...],
        Field(min_length=1),
    ] = (0.001, 0.01, 0.1, 1.0, 10.0)
    window: Windows = Windows()
    max_fpr: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01

    @field_validator("penalties", "layers", "poolings", "sizes", check_fields=False)
    @classmethod
    def _distinct(cls, values: object) -> object:
        if isinstance(values, tuple) and len(set(values)) != len(values):
            raise ValueError("a value stands twice")
        return values

    @classmethod
    def read(cls, path: Path | None, given: Mapping[str, Any] | None = None) -> Self:
        """Read a YAML file; paths in it are relative to its folder.

        Args:
            path: The file; None for flags alone.
            given: What overrides it, as flags: key -> value, also within `columns` and `window`. None is not given.
                Paths in it are relative to where the command runs.

        Returns:
            The run.

        Raises:
            UnsupportedValueError: One line a mistake: file, line, key, what is wrong, and the key that was likely
                meant; a mistake in what was given names the option.
        """
        return read_run(cls, path, given, place=_from_folder)


class TrainConfig(DataConfig):
    """A training run.

    Attributes:
        model: A folder with a Hugging Face model; None takes the embedded detector's.
        turn: Whose turn of a conversation the texts are read in, by the model's chat template, with their contexts
            before them: of a user's text the system message, of an answer (`assistant`) the request. So a decoder's
            states are those that it has while it answers. None: texts are read by themselves.
        layers: The layers to try, 0 for the embeddings; None takes all.
        poolings: The poolings to try; None takes mean and max, and of decoders the last token too.
        sizes: How many examples the learning curves are fitted to.
        seeds: How often each size is drawn anew.
        folds: Parts that families are dealt to, to be held out in turn.
    """

    model: Path | None = None
    turn: Role | None = None
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    poolings: Annotated[tuple[TrainPooling, ...], Field(min_length=1)] | None = None
    sizes: Annotated[tuple[Annotated[int, Field(gt=1)], ...], Field(min_length=1)] = (
        5,
        10,
        20,
        35,
        55,
        100,
        500,
        1_000,
        5_000,
    )
    seeds: Annotated[int, Field(gt=0)] = 5
    folds: Annotated[int, Field(ge=2)] = 5


def read_run(
    kind: type[Run],
    path: Path | None,
    given: Mapping[str, Any] | None,
    *,
    place: Callable[[str, Any, Path], Any],
) -> Run:
    """Read what a run is to do from a YAML file and flags.

    Args:
        kind: What it is.
        path: The file; None for flags alone.
        given: What overrides it, as flags: key -> value, also within parts. None is not given.
        place: Of a key of the file, its value and the file's folder: the value with its paths from the folder on.

    Returns:
        The run.

    Raises:
        UnsupportedValueError: As `TrainConfig.read` says it.
    """
    document = _read(path) if path is not None else None
    written = _placed(document, place) if document is not None else {}
    flags = _given(given or {})
    try:
        return kind.model_validate(_merged(written, flags))
    except ValidationError as error:
        mistakes = []
        for detail in error.errors(include_url=False):
            keys: KeyPath = tuple(detail["loc"])
            where = ".".join(map(str, keys)) or "the run"
            hint = _hint(keys, detail["type"], kind)
            mistakes.append(f"{_place(keys, document, flags)}{where}: {detail['msg']}{hint}")
        raise UnsupportedValueError("\n".join(mistakes)) from None


def _read(path: Path) -> Document:
    try:
        return read_document(path)
    except PolicyError as error:
        raise UnsupportedValueError(str(error)) from None


def _placed(document: Document, place: Callable[[str, Any, Path], Any]) -> dict[str, Any]:
    """What a file says, with its paths from its folder on."""
    data = document.data
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UnsupportedValueError(f"{document.file}:1: a run is `key: value` on each line, not {type(data).__name__}")
    return {key: place(key, value, document.file.parent) for key, value in data.items()}


def _from_folder(key: str, value: Any, folder: Path) -> Any:
    if key == "base" and isinstance(value, str):
        return str(folder / value) if (folder / value).is_dir() else value  # else it names a package
    return paths_from(value, folder) if key in ("data", "model") else value


def paths_from(value: Any, folder: Path) -> Any:
    """A path of a file, or a list of them, from its folder on.

    Args:
        value: As the file has it.
        folder: The file's folder.

    Returns:
        The same with the folder before each word.
    """
    if isinstance(value, list):
        return [paths_from(one, folder) for one in value]
    return folder / value if isinstance(value, str) else value


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: _given(value) if isinstance(value, Mapping) else value for key, value in flags.items()}
    return {key: value for key, value in inner.items() if value is not None and value != {}}


def _merged(written: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(written)
    for key, value in flags.items():
        below = both.get(key)
        both[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both


def _place(keys: KeyPath, document: Document | None, flags: Mapping[str, Any]) -> str:
    """File and line of a key, or nothing where a flag gave it."""
    here: Any = flags
    for key in keys:
        if not isinstance(here, dict) or key not in here:
            break
        here = here[key]
    given = bool(keys) and here is not flags and not isinstance(here, dict)
    return f"{document.where(keys)}: " if document is not None and not given else ""


def _hint(keys: KeyPath, kind: str, run: type[BaseModel]) -> str:
    if kind != "extra_forbidden":
        return ""
    model: type[BaseModel] | None = run
    for key in keys[:-1]:
        field = model.model_fields.get(str(key)) if model is not None else None
        model = _part(field.annotation) if field is not None else None
    return nearest(str(keys[-1]), list(model.model_fields)) if model is not None else ""


def _part(annotation: Any) -> type[BaseModel] | None:
    """What stands under a key, where that is keys again."""
    kinds = [annotation, *get_args(annotation)]
    return next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
