"""The JSON Schema of a policy file, from which editors complete and check; made of the models and their docstrings."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import BaseModel

from lec_guard.policy.cases import CasesFile
from lec_guard.policy.schema import PolicyFile

Kind = Literal["policy", "cases"]
"""A policy file, or one with test cases."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_MODELS: dict[Kind, type[BaseModel]] = {"policy": PolicyFile, "cases": CasesFile}


def json_schema(kind: Kind = "policy") -> dict[str, Any]:
    """The schema of a kind of file.

    It says what each key may hold. What several keys say together (a threshold or a max_fpr, a section that an action
    names) only `lec-guard policy check` can tell.

    Args:
        kind: The kind of file.

    Returns:
        The schema, in the dialect of 2020-12.
    """
    schema = _MODELS[kind].model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        _describe(part)
    return {"$schema": DIALECT, **schema, "title": f"lec-guard: {kind} file"}


def schema_text(kind: Kind = "policy") -> str:
    """The same, as the packaged file has it.

    Args:
        kind: The kind of file.

    Returns:
        JSON.
    """
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"


def _describe(part: dict[str, Any]) -> None:
    """Give each key the words of its model's docstring, and leave out titles that say a key's name once more."""
    head, _, attributes = part.get("description", "").partition("\n\nAttributes:\n")
    part["description"] = _line(head)
    part.pop("title", None)
    said = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, flags=re.MULTILINE))
    for key, value in part.get("properties", {}).items():
        value.pop("title", None)
        value["description"] = _line(said[key])


def _line(words: str) -> str:
    return " ".join(words.split())
