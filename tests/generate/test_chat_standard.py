"""LangChain's own tests of chat models, on the guarded one: what is allowed is as if there were no guard."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import mkdtemp

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from lec_guard import GuardRunnable
from lec_guard.generate import GuardedChatModel, InsideDetector
from tests.generate.inside import Inside
from tests.generate.test_guarded import SHORT
from tests.generate.test_local import speaker
from tests.generate.test_local_standard import CALLED, JOKES, NO_TOOL_CHOICE, SAID

POLICY = """
message: No.
rules:
  - {name: attack, stages: [input, tool_output], head: attack, threshold: 1.0, action: block}
  - {name: harm, stages: [output, tool_input], head: harm, threshold: 1.0, action: block}
"""


@functools.cache
def params(called):
    folder = Path(mkdtemp())
    model, tokenizer = speaker(SAID, called)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    one = Inside(folder, model, tokenizer)
    user = one.bundle("user", blocks=((1, "mean"),))
    answer = one.bundle("answer", role="assistant", head="harm", blocks=((1, "mean"),), window=SHORT)
    detector = InsideDetector.load(model, tokenizer, user, answer)
    (folder / "policy.yaml").write_text(POLICY)
    guard = GuardRunnable.from_policies(folder / "policy.yaml", detector=detector)
    return {"tokenizer": tokenizer, "guard": guard, "detector": detector}


class _Common:
    @property
    def chat_model_class(self):
        return GuardedChatModel

    @property
    def chat_model_params(self):
        return params(None)

    @property
    def has_tool_choice(self):
        return False

    @property
    def supports_model_override(self):
        return False


class TestUnit(_Common, ChatModelUnitTests):
    @property
    def standard_chat_model_params(self):
        """Without what belongs to a service: a key, retries and a time limit."""
        return {"temperature": 0, "max_tokens": 100, "stop": []}

    @NO_TOOL_CHOICE
    def test_bind_tool_pydantic(self, model, my_adder_tool):
        super().test_bind_tool_pydantic(model, my_adder_tool)


class TestIntegration(_Common, ChatModelIntegrationTests):
    @pytest.fixture
    def model(self, request):
        name = request.node.originalname
        called = JOKES if name.startswith("test_structured_output") else CALLED.get(name)
        return GuardedChatModel(**params(called), **(getattr(request, "param", None) or {}))

    @NO_TOOL_CHOICE
    def test_structured_few_shot_examples(self, model, my_adder_tool):
        super().test_structured_few_shot_examples(model, my_adder_tool)

    @NO_TOOL_CHOICE
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)
