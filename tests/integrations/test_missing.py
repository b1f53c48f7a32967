"""An integration whose framework is not installed says what to install."""

from __future__ import annotations

import importlib
import sys

import pytest

from lec_guard import UnsupportedValueError


@pytest.mark.parametrize(
    ("name", "framework", "extra"),
    [
        ("haystack", "haystack", "haystack"),
        ("langchain", "langchain", "langchain"),
        ("langgraph", "langgraph", "langchain"),
        ("litellm", "litellm", "litellm"),
        ("llama_index", "llama_index", "llama-index"),
        ("openai_agents", "agents", "openai-agents"),
        ("ray_serve", "ray", "ray"),
    ],
)
def test_it_names_the_command(name: str, framework: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [one for one in sys.modules if one.partition(".")[0] == framework]:
        monkeypatch.setitem(sys.modules, loaded, None)  # As if it were not there.
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"lec_guard_integrations.{name}", raising=False)
    with pytest.raises(UnsupportedValueError, match=rf"{framework}[\w.]*; run: pip install 'lec-guard\[{extra}\]'"):
        importlib.import_module(f"lec_guard_integrations.{name}")
