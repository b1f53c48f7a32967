"""A whole causal language model from a folder, with its tokenizer, as those who generate need it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lec_guard.detect.architectures import loading, refuse_adapters
from lec_guard.errors import BundleError


@dataclass(frozen=True, slots=True)
class CausalModel:
    """A model that writes.

    Attributes:
        model: The model, on the CPU, in evaluation mode, in the type that it is stored in.
        tokenizer: Its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_causal(folder: Path) -> CausalModel:
    """Load a model; only safetensors are read, no code comes from the folder, and nothing is downloaded.

    Args:
        folder: A folder with a Hugging Face causal language model and its tokenizer.

    Returns:
        Both.

    Raises:
        BundleError: If the folder holds no model or tokenizer that can be read, weights are missing, or it has adapters
            of peft, which would bring weights from elsewhere.
    """
    wrong = f"{folder}: not a causal language model that can be read"
    if not (folder / "config.json").is_file():
        what = "it has no config.json" if folder.is_dir() else "there is no such folder"
        raise BundleError(f"{wrong}: {what}; give the folder of a Hugging Face model")
    refuse_adapters(folder)
    loaded: Any = AutoModelForCausalLM
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with loading():
        try:
            model, info = loaded.from_pretrained(
                folder, **safe, use_safetensors=True, dtype="auto", output_loading_info=True
            )
        except Exception as error:  # a damaged file makes it raise almost anything
            raise BundleError(f"{wrong}: {error}") from error
        missing = sorted(info["missing_keys"])
        if missing:  # they would be random
            raise BundleError(
                f"{folder}: not a causal language model that was trained: {len(missing)} weights are missing, "
                f"{missing[0]} among them"
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
        except Exception as error:  # likewise
            raise BundleError(f"{folder}: its tokenizer can't be loaded: {error}") from error
    return CausalModel(model.eval(), tokenizer)
