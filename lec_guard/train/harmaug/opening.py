"""Where a name leads to a model."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from lec_guard.detect.layer import LayerDetector
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.harmaug.chat import ChatText, named_chat_model
from lec_guard.train.harmaug.config import BUNDLE, LOCAL, OBJECT, AugmentConfig, ModelConfig
from lec_guard.train.harmaug.local import LocalText
from lec_guard.train.harmaug.models import TextModel
from lec_guard.train.harmaug.teacher import Labeller, by_classifier, by_detector


def open_model(config: ModelConfig, run: AugmentConfig, given: Any = None) -> TextModel:
    """The model that a config names.

    Args:
        config: The model.
        run: The run that it is for.
        given: The model itself, where it is there already.

    Returns:
        The model.

    Raises:
        UnsupportedValueError: If there is no such model, or a package is missing; says which.
        BundleError: If a folder holds no model that can be read.
    """
    if given is not None:
        return given if _writes(given) else ChatText(given, prefill=config.prefill)
    if config.model.startswith(LOCAL):
        return LocalText(
            Path(config.model.removeprefix(LOCAL)),
            temperature=1.0 if config.temperature is None else config.temperature,
            max_tokens=config.max_tokens,
            batch=run.concurrency,
        )
    if config.model.startswith(OBJECT):
        found = _named(config.model.removeprefix(OBJECT))
        return found if _writes(found) else ChatText(found, prefill=config.prefill)
    model = named_chat_model(config.model, temperature=config.temperature, max_tokens=config.max_tokens)
    return ChatText(model, prefill=config.prefill)


def open_teacher(run: AugmentConfig, given: Any = None) -> TextModel | Labeller:
    """The teacher that a config names.

    Args:
        run: The run that it is for.
        given: The teacher itself, where it is there already: a chat model or a detector.

    Returns:
        What is asked for labels, or what gives scores.

    Raises:
        UnsupportedValueError: If there is no such teacher, or a package is missing; says which.
        BundleError: If a folder holds no model that can be read.
        DetectorError: If a bundle's model can't be cut.
    """
    config = run.teacher
    if given is None and config.model.startswith(BUNDLE):
        source = config.model.removeprefix(BUNDLE)
        given = LayerDetector.load(None if source == "embedded" else Path(source))
    elif given is None and config.model.startswith(OBJECT):
        given = _named(config.model.removeprefix(OBJECT))
    if hasattr(given, "score") and hasattr(given, "labels"):
        return by_detector(given, config.head)
    if config.head is not None:
        raise UnsupportedValueError(f"{config.model} is no detector, and has no head {config.head!r}")
    if given is None and config.model.startswith(LOCAL) and _classifies(Path(config.model.removeprefix(LOCAL))):
        return by_classifier(Path(config.model.removeprefix(LOCAL)), config.benign)
    return open_model(config, run, given)


def _classifies(folder: Path) -> bool:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False  # What opens the folder says what is wrong with it.
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def _writes(model: Any) -> bool:
    if not (hasattr(model, "say") or hasattr(model, "ainvoke")):
        raise UnsupportedValueError(f"{type(model).__name__} is no chat model: it has no `ainvoke`")
    return hasattr(model, "say")


def _named(name: str) -> Any:
    """What a `module:name` names; what is in the current folder can be named."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UnsupportedValueError(f"{OBJECT}{name}: write {OBJECT}MODULE:NAME")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnsupportedValueError(f"{OBJECT}{name}: is not there: {error}") from None
