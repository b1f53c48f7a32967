"""What a model is told of a tool, as text to be judged, and which of it was judged by whose policy."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from lec_guard.chain.messages import DEEPEST
from lec_guard.errors import UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.step import ToolRef

KEPT = 4096
"""Judgements of definitions that are kept; one that was dropped is judged once more."""

_TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}
_KEYWORDS = {
    "$anchor", "$comment", "$defs", "$id", "$ref", "$schema", "additionalProperties", "allOf", "anyOf", "const",
    "contains", "default", "definitions", "deprecated", "description", "discriminator", "else", "enum", "examples",
    "exclusiveMaximum", "exclusiveMinimum", "format", "if", "items", "maxItems", "maxLength", "maximum", "minItems",
    "minLength", "minimum", "multipleOf", "not", "nullable", "oneOf", "parameters", "pattern", "prefixItems",
    "properties", "readOnly", "required", "strict", "then", "title", "type", "uniqueItems", "writeOnly",
}  # fmt: skip
"""What schemas are made of."""

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Definition:
    """What a model is told of a tool.

    Attributes:
        ref: Name and description.
        text: Everything in it that somebody wrote: the description, and of each argument its name with descriptions,
            defaults, examples, and whatever else its schema says.
        digest: A digest of all of it, also of what is no text.
    """

    ref: ToolRef
    text: str
    digest: str

    @classmethod
    def of(cls, tool: BaseTool) -> Definition:
        """Read the definition of a tool.

        Args:
            tool: The tool.

        Returns:
            Its definition, as it is now.

        Raises:
            UnsupportedValueError: If it has no schema that a model could be told.
        """
        try:
            told = convert_to_openai_tool(tool)
            raw = tool.args_schema if isinstance(tool.args_schema, dict) else {}
            whole = json.dumps([told, raw, tool.extras], sort_keys=True, default=repr)
        except Exception:  # noqa: BLE001 - whatever pydantic or LangChain raise
            raise UnsupportedValueError(f"tool {tool.name!r} has a schema that can't be read") from None
        function = told.get("function", told)
        rest = {key: value for key, value in function.items() if key not in ("name", "description")}
        lines = [str(function.get("name", "")), str(function.get("description", ""))]
        # Some providers are told what the common form leaves out.
        lines += [*_texts(rest, "", 0), *_texts(raw, "", 0), *_texts(tool.extras or {}, "", 0)]
        if tool.description not in lines:
            lines.append(tool.description)
        text = "\n".join(dict.fromkeys(line for line in lines if line))
        return cls(cls.ref_of(tool), text, hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest())

    @staticmethod
    def ref_of(tool: BaseTool) -> ToolRef:
        """What steps say of a tool.

        Args:
            tool: The tool.

        Returns:
            Its name and description.
        """
        return ToolRef(name=tool.name, description=tool.description or None)


class Definitions:
    """Which definitions may be used under which policies. Safe to share between threads.

    Args:
        guard: What judges them.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._lock = threading.Lock()
        # Under that lock.
        self._passed: OrderedDict[tuple[str | None, str, str | None, str], None] = OrderedDict()

    def passed(self, definition: Definition, tenant: str | None) -> bool:
        """Whether a definition has passed by the policies that are in force for a tenant.

        Args:
            definition: The definition.
            tenant: The tenant.

        Returns:
            Whether it has.

        Raises:
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        key = self._key(definition, tenant)
        with self._lock:
            if key not in self._passed:
                return False
            self._passed.move_to_end(key)
            return True

    def note(self, definition: Definition, tenant: str | None) -> None:
        """Keep that a definition has passed.

        Args:
            definition: The definition.
            tenant: The tenant by whose policy it was judged.
        """
        key = self._key(definition, tenant)
        with self._lock:
            self._passed[key] = None
            while len(self._passed) > KEPT:
                self._passed.popitem(last=False)

    def _key(self, definition: Definition, tenant: str | None) -> tuple[str | None, str, str | None, str]:
        own = self._guard.policies.get(tenant)
        floor = None if own.floor is None else own.floor.policy.version
        return tenant, own.live.policy.version, floor, definition.digest


def _texts(value: object, key: str, depth: int) -> Iterator[str]:
    """Names and texts in a schema, a line each; not what only says how it is built."""
    if depth > DEEPEST:
        raise UnsupportedValueError(f"a schema is nested more than {DEEPEST} deep")
    if isinstance(value, Mapping):
        for name, item in value.items():
            if key == "properties" and isinstance(item, Mapping):
                # An argument: its name and what is said of it are one line.
                said = item.get("description")
                yield f"{name}: {said}" if isinstance(said, str) else str(name)
                item = {own: part for own, part in item.items() if own != "description" or not isinstance(said, str)}
            elif name not in _KEYWORDS:
                yield str(name)
            yield from _texts(item, str(name), depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item, key, depth + 1)
    elif isinstance(value, str) and not _is_structure(key, value):
        yield value


def _is_structure(key: str, value: str) -> bool:
    match key:
        case "type":
            return value in _TYPES
        case "required" | "title" | "format":
            return _IDENTIFIER.fullmatch(value) is not None
        case "$ref":
            return re.fullmatch(r"#(/[$\w-]{1,32})+", value) is not None
        case _:
            return False
