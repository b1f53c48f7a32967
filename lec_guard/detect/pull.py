"""Fetching base weights or a bundle from a model hub: only ever on a person's explicit command."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from lec_guard.detect.bundle import DESCRIPTION, model_store, pulled_folder, read_bundle
from lec_guard.errors import BundleError

_REFERENCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    DESCRIPTION,
]
"""No pickles and no code: only what a detector is loaded from."""


def pull(reference: str, *, endpoint: str | None = None) -> Path:
    """Fetch a repository at a pinned commit into the local store.

    Args:
        reference: `org/name@revision` with a full commit hash: a branch or tag can change under you.
        endpoint: The hub; None takes the client's own setting. No other one is sent your token.

    Returns:
        The folder. A base model there is what bundles with this repo and revision load; a bundle can be
        given to `--detector`.

    Raises:
        BundleError: If the reference is not pinned, the hub refuses, or the repository holds neither
            safetensors weights nor a bundle. Nothing is left behind then.
    """
    match = _REFERENCE.fullmatch(reference)
    if not match:
        raise BundleError(
            f"{reference!r}: give org/name@revision, with the full 40 digits of a commit; a branch can change under you"
        )
    target = pulled_folder(match["repo"], match["revision"])
    if target.is_dir():
        return target
    store = model_store()
    store.mkdir(parents=True, exist_ok=True)
    is_own_hub = endpoint is None or endpoint.rstrip("/") == constants.ENDPOINT
    fresh = Path(tempfile.mkdtemp(dir=store, prefix=".pull-"))
    try:
        snapshot_download(
            match["repo"],
            revision=match["revision"],
            local_dir=fresh,
            allow_patterns=_FILES,
            ignore_patterns=["*/*"],  # a model is loaded from the top folder alone
            endpoint=endpoint,
            token=None if is_own_hub else False,  # None: the client's own
        )
        shutil.rmtree(fresh / ".cache", ignore_errors=True)
        if (fresh / DESCRIPTION).is_file():
            read_bundle(fresh)
        elif not (fresh / "config.json").is_file() or not any(fresh.glob("*.safetensors")):
            raise BundleError(f"{reference}: holds neither a bundle nor config.json with safetensors weights")
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh.rename(target)
    except BundleError:
        raise
    except Exception as error:  # the hub's client lets its HTTP library's errors through
        raise BundleError(f"{reference}: could not be fetched: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target
