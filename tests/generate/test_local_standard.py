"""LangChain's own tests of chat models, on models that write by their weights what a test asks for."""

from __future__ import annotations

import functools

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests.chat_models import unicode_customer
from langchain_tests.unit_tests import ChatModelUnitTests

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.local import LocalChatModel
from tests.generate.test_local import call_of, speaker

NO_TOOL_CHOICE = pytest.mark.xfail(
    reason="a local model calls a tool if it writes a call, so tool_choice='any' is refused",
    raises=UnsupportedValueError,
    strict=True,
)
SAID = "Hello! It is a fine day, ahoy."
CALLED = {
    "test_bind_runnables_as_tools": call_of("greeting_generator", {"answer_style": "pirate"}),
    "test_tool_calling": call_of("magic_function", {"input": 3}),
    "test_tool_calling_async": call_of("magic_function", {"input": 3}),
    "test_tool_calling_with_no_arguments": call_of("magic_function_no_args", {}),
    "test_agent_loop": call_of("get_weather", {"location": "San Francisco, CA"}),
    "test_unicode_tool_call_integration": call_of(
        "unicode_customer", {"customer_name": "你好啊集团 こんにちは株式会社", "description": "a company"}
    ),
}
# By either name: parsers take the one that they know.
JOKES = "\n".join(
    call_of(name, {"setup": "Why did the cat?", "punchline": "It was bored."}) for name in ("Joke", "JokeDict")
)


def called_in(request):
    """What a test wants to be called."""
    name = request.node.originalname
    return JOKES if name.startswith("test_structured_output") else CALLED.get(name)


@functools.cache
def speaker_of(called):
    return speaker(SAID, called)


class _Common:
    @property
    def chat_model_class(self):
        return LocalChatModel

    @property
    def chat_model_params(self):
        model, tokenizer = speaker_of(None)
        return {"model": model, "tokenizer": tokenizer}

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
        model, tokenizer = speaker_of(called_in(request))
        more = getattr(request, "param", None) or {}
        return LocalChatModel(model=model, tokenizer=tokenizer, **more)

    @NO_TOOL_CHOICE
    def test_structured_few_shot_examples(self, model, my_adder_tool):
        super().test_structured_few_shot_examples(model, my_adder_tool)

    @NO_TOOL_CHOICE
    def test_unicode_tool_call_integration(self, model):
        super().test_unicode_tool_call_integration(model)


def test_unicode_in_calls_without_a_tool_choice():
    """The same where the model decides."""
    model, tokenizer = speaker_of(CALLED["test_unicode_tool_call_integration"])
    chat = LocalChatModel(model=model, tokenizer=tokenizer)
    ChatModelIntegrationTests.test_unicode_tool_call_integration(TestIntegration(), chat, force_tool_call=False)
    assert "你好" in chat.bind_tools([unicode_customer]).invoke("x").tool_calls[0]["args"]["customer_name"]
