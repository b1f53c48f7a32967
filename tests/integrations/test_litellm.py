"""LiteLLM: what its proxy and `acompletion` really call, and what comes of it."""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import litellm
import pytest
from fastapi import HTTPException
from lec_guard_integrations.litellm import LecGuardrail
from litellm.caching.caching import DualCache
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from litellm.llms import load_guardrail_translation_mappings
from litellm.proxy._types import UserAPIKeyAuth
from litellm.proxy.utils import ProxyLogging
from litellm.types.utils import CallTypes, ModelResponse, ModelResponseStream

from lec_guard import EscalationPending, GuardBlocked, PolicyError, TenantMismatch, UnsupportedValueError
from tests.integrations.guards import Guarded

litellm.telemetry = False


class CountingModel(litellm.CustomLLM):
    """A provider that counts how often it is called, and answers by a script."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.answer: dict[str, Any] = {"content": "Fine."}

    async def acompletion(self, *args: Any, **kwargs: Any) -> ModelResponse:
        self.sent.append(copy.deepcopy(kwargs["messages"]))
        return answered(self.answer)


def answered(message: dict[str, Any]) -> ModelResponse:
    return ModelResponse(choices=[{"message": {"role": "assistant", **message}, "finish_reason": "stop", "index": 0}])


def closing(async_coroutine: Any) -> None:
    async_coroutine.close()


def call(arguments: str, name: str = "send") -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


@pytest.fixture
def rail(guarded: Guarded, model: CountingModel, monkeypatch: pytest.MonkeyPatch) -> LecGuardrail:
    """A guardrail that LiteLLM knows, beside a provider of our own."""
    rail = LecGuardrail(guarded.guard)
    monkeypatch.setattr(litellm, "callbacks", [rail])
    # What the hooks want of the server; itself it needs `litellm[proxy]`, with a database and more.
    server = SimpleNamespace(llm_router=None, premium_user=False)
    monkeypatch.setitem(sys.modules, "litellm.proxy.proxy_server", server)
    monkeypatch.setattr(litellm, "custom_provider_map", [{"provider": "ours", "custom_handler": model}])
    litellm.utils.custom_llm_setup()
    # LiteLLM logs in the background, and would carry that over into the next test's event loop.
    monkeypatch.setattr(
        GLOBAL_LOGGING_WORKER, "ensure_initialized_and_enqueue", lambda async_coroutine: async_coroutine.close()
    )
    return rail


async def ask(text: Any, **changes: Any) -> Any:
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    return (await litellm.acompletion(model="ours/model", messages=messages, **changes)).choices[0].message


# --- litellm.acompletion


async def test_what_may_pass_passes(rail: LecGuardrail, model: CountingModel, guarded: Guarded) -> None:
    assert (await ask("hello")).content == "Fine."
    assert len(model.sent) == 1
    assert guarded.seen == [("input", "hello"), ("output", "Fine.")]
    assert guarded.detector.seen[1].context == "hello"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "an attack"}],
        [{"role": "user", "content": [{"type": "text", "text": "an att"}, {"type": "text", "text": "ack"}]}],
        [{"role": "assistant", "content": None, "tool_calls": [call('{"a": "attack"}')]}],
        [{"role": "tool", "tool_call_id": "c1", "content": "an attack"}],
    ],
    ids=["text", "blocks", "call", "result"],
)  # fmt: skip
async def test_a_request_that_is_blocked_calls_no_model(
    rail: LecGuardrail, model: CountingModel, messages: list[Any]
) -> None:
    with pytest.raises(GuardBlocked):
        await ask(messages)
    assert model.sent == []


async def test_what_is_rewritten_is_sent_and_the_callers_messages_stay(
    rail: LecGuardrail, model: CountingModel
) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "darn rules"},
        {"role": "user", "content": [{"type": "text", "text": "darn you"}, {"type": "text", "text": "and hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [call('{"to": "darn bob"}')]},
        {"role": "tool", "tool_call_id": "c1", "content": "darn"},
    ]
    before = copy.deepcopy(messages)
    await ask(messages)
    assert messages == before
    [sent] = model.sent
    assert [one.get("content") for one in sent] == [
        "darn rules", [{"type": "text", "text": "dear you"}, {"type": "text", "text": "and hi"}], None, "dear",
    ]  # fmt: skip
    assert sent[2]["tool_calls"][0]["function"]["arguments"] == '{"to": "dear bob"}'


async def test_answers_are_judged_and_rewritten(rail: LecGuardrail, model: CountingModel) -> None:
    model.answer = {"content": "oh darn", "tool_calls": [call('{"to": "darn"}')]}
    said = await ask("hi")
    assert said.content == "oh dear"
    assert said.tool_calls[0].function.arguments == '{"to": "dear"}'


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "an attack"},
        {"content": None, "tool_calls": [call('{"to": "attack"}')]},
        {"content": "fine", "reasoning_content": "an attack"},
        {"content": "fine", "reasoning_content": "darn"},
    ],
    ids=["text", "call", "thoughts", "thoughts that would be rewritten"],
)
async def test_an_answer_that_is_blocked_is_not_given(
    rail: LecGuardrail, model: CountingModel, answer: dict[str, Any]
) -> None:
    model.answer = answer
    with pytest.raises(GuardBlocked):
        await ask("hi")
    assert len(model.sent) == 1


async def test_errors_are_the_guards_own(rail: LecGuardrail, model: CountingModel) -> None:
    with pytest.raises(EscalationPending) as pending:
        await ask("poison")
    assert pending.value.ticket == "t-1"
    with pytest.raises(GuardBlocked, match="fail:error"):
        await ask("boom")
    with pytest.raises(UnsupportedValueError, match="image"):
        await ask(
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]
        )
    with pytest.raises(UnsupportedValueError, match="by keyword"):
        await litellm.acompletion("ours/model", [{"role": "user", "content": "attack"}])
    with pytest.raises(UnsupportedValueError, match="stream"):
        await ask("hi", stream=True)
    assert model.sent == []


async def test_the_tenant_is_that_of_the_metadata(
    guarded: Guarded, rail: LecGuardrail, model: CountingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(litellm, "callbacks", [LecGuardrail(guarded.guard, tenant_key="tenant")])
    assert (await ask("darn")).content == "Fine."
    with pytest.raises(GuardBlocked) as blocked:
        await ask("darn", metadata={"tenant": "acme"})
    assert blocked.value.verdict.message == "Acme says no."
    with pytest.raises(PolicyError):
        await ask("hi", metadata={"tenant": "nobody"})
    assert len(model.sent) == 1


# --- the proxy


class Proxy:
    """The hooks of LiteLLM's proxy, as its endpoints call them."""

    def __init__(self, route: str = "/chat/completions") -> None:
        self.logging = ProxyLogging(user_api_key_cache=DualCache())
        self.key = UserAPIKeyAuth(api_key="hashed", team_id="acme", request_route=route)

    async def before(self, data: dict[str, Any], call_type: str = "acompletion") -> Any:
        return await self.logging.pre_call_hook(user_api_key_dict=self.key, data=data, call_type=call_type)  # type: ignore[call-overload]

    async def after(self, data: dict[str, Any], response: Any) -> Any:
        return await self.logging.post_call_success_hook(data=data, response=response, user_api_key_dict=self.key)

    async def stream(self, data: dict[str, Any], chunks: AsyncIterator[Any]) -> list[Any]:
        held = self.logging.async_post_call_streaming_iterator_hook(
            response=chunks, user_api_key_dict=self.key, request_data=data
        )
        return [chunk async for chunk in held]


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "metadata": {}, **more}


async def test_the_proxy_refuses_a_request(rail: LecGuardrail) -> None:
    with pytest.raises(HTTPException) as refused:
        await Proxy().before(asking("an attack"))
    assert refused.value.status_code == 400
    # Some versions of LiteLLM add which guardrail it was.
    ours = {key: value for key, value in refused.value.detail.items() if not key.startswith("guardrail_")}
    assert ours == {"error": "No.", "type": "GuardBlocked", "stage": "input"}


async def test_the_proxy_sends_what_was_rewritten(rail: LecGuardrail) -> None:
    data = await Proxy().before(asking("darn you"))
    assert data["messages"][0]["content"] == "dear you"


async def test_the_proxy_says_that_somebody_has_yet_to_decide(rail: LecGuardrail) -> None:
    with pytest.raises(HTTPException) as refused:
        await Proxy().before(asking("poison"))
    assert refused.value.status_code == 409
    assert refused.value.detail["ticket"] == "t-1"


async def test_definitions_of_tools_are_judged(rail: LecGuardrail) -> None:
    tool = {"type": "function", "function": {"name": "send", "description": "Send a darn mail.", "parameters": {}}}
    data = await Proxy().before(asking("hi", tools=[copy.deepcopy(tool)]))
    assert data["tools"][0]["function"]["description"] == "Send a dear mail."
    tool["function"]["description"] = "attack"  # type: ignore[index]
    with pytest.raises(HTTPException):
        await Proxy().before(asking("hi", tools=[tool]))


async def test_the_proxy_judges_answers(rail: LecGuardrail) -> None:
    said = await Proxy().after(asking("hi"), answered({"content": "oh darn", "tool_calls": [call('{"a": "darn"}')]}))
    assert said.choices[0].message.content == "oh dear"
    assert said.choices[0].message.tool_calls[0].function.arguments == '{"a": "dear"}'
    with pytest.raises(HTTPException):
        await Proxy().after(asking("hi"), answered({"content": "attack"}))


async def test_no_request_switches_the_guard_off(rail: LecGuardrail) -> None:
    with pytest.raises(HTTPException):
        await Proxy().before(asking("attack", disable_global_guardrail=True, guardrails=[]))


async def test_a_subclass_is_used_too(guarded: Guarded, rail: LecGuardrail, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ours(LecGuardrail):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(guarded.guard, **kwargs)

    monkeypatch.setattr(litellm, "callbacks", [Ours(guardrail_name="ours", event_hook="pre_call", default_on=True)])
    with pytest.raises(HTTPException):
        await Proxy().before(asking("attack"))
    assert await Proxy().stream(asking("hi"), chunked("an attack")) != []  # It stands before the call only.


def test_it_does_not_stand_beside_the_model(guarded: Guarded) -> None:
    with pytest.raises(ValueError, match="during_call"):
        LecGuardrail(guarded.guard, event_hook="during_call")


@pytest.mark.parametrize("forged", ["litellm_metadata", "metadata"])
async def test_no_caller_names_the_tenant_of_somebody_else(guarded: Guarded, forged: str) -> None:
    rail = LecGuardrail(guarded.guard, tenant_key="user_api_key_team_id")
    proxys = {"metadata": "litellm_metadata", "litellm_metadata": "metadata"}[forged]
    data = {proxys: {"user_api_key_team_id": None}, forged: {"user_api_key_team_id": "acme"}}
    with pytest.raises(TenantMismatch):
        await rail.judge({"texts": ["hi"]}, data, "request")
    data[proxys]["user_api_key_team_id"] = "acme"
    with pytest.raises(GuardBlocked, match="rude"):
        await rail.judge({"texts": ["darn"]}, data, "request")


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_a_callers_system_messages_are_judged_where_it_is_said(
    guarded: Guarded, model: CountingModel, rail: LecGuardrail, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    def asked(text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}, {"role": "user", "content": "hi"}]

    assert (await ask(asked("an attack"))).content == "Fine."
    model.sent.clear()
    guarded.detector.seen.clear()
    monkeypatch.setattr(litellm, "callbacks", [LecGuardrail(guarded.guard, system_messages="judged")])
    with pytest.raises(GuardBlocked):
        await ask(asked("an attack"))
    assert model.sent == []
    await ask(asked("darn rules"))
    assert [one["content"] for one in model.sent[0]] == ["dear rules", "hi"]
    with pytest.raises(HTTPException):
        await Proxy().before({**asking("hi"), "messages": asked("an attack")})
    with pytest.raises(UnsupportedValueError, match="trusted or judged"):
        LecGuardrail(guarded.guard, system_messages="judge")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [CallTypes.anthropic_messages, CallTypes.responses])
async def test_prompts_of_other_routes_are_system_messages(guarded: Guarded, kind: CallTypes) -> None:
    known: Any = load_guardrail_translation_mappings()  # type: ignore[no-untyped-call]
    asked: dict[str, Any] = {"model": "m", "max_tokens": 9}
    if kind == CallTypes.responses:
        asked |= {"input": "hi", "instructions": "an attack"}
    else:
        asked |= {"messages": [{"role": "user", "content": "hi"}], "system": "an attack"}
    await known[kind]().process_input_messages(copy.deepcopy(asked), LecGuardrail(guarded.guard))
    rail = LecGuardrail(guarded.guard, system_messages="judged")
    with pytest.raises(HTTPException):
        await known[kind]().process_input_messages(copy.deepcopy(asked), rail)


async def test_on_other_routes_a_rewrite_is_a_block(guarded: Guarded) -> None:
    rail = LecGuardrail(guarded.guard)
    result = {"role": "tool", "tool_call_id": "c1", "content": "fine"}
    inputs = {"texts": ["hi"], "structured_messages": [{"role": "user", "content": "hi"}, result]}
    assert (await rail.judge(inputs, {}, "request"))["texts"] == ["hi"]
    for text in ("darn", "attack"):
        result["content"] = text
        with pytest.raises(GuardBlocked):
            await rail.judge(inputs, {}, "request")
    assert (await rail.judge({"texts": ["darn"]}, {}, "request"))["texts"] == ["dear"]


# --- streams of the proxy


async def chunked(*texts: str, **last: Any) -> AsyncIterator[ModelResponseStream]:
    for text in texts:
        yield ModelResponseStream(choices=[{"index": 0, "delta": {"role": "assistant", "content": text}}])
        await asyncio.sleep(0)
    yield ModelResponseStream(choices=[{"index": 0, "delta": last, "finish_reason": "stop"}])


def text_of(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


async def test_a_stream_that_may_pass_is_the_same_chunks(rail: LecGuardrail) -> None:
    chunks = [chunk async for chunk in chunked("he", "llo")]

    async def again() -> AsyncIterator[Any]:
        for chunk in chunks:
            yield chunk

    given = await Proxy().stream(asking("hi"), again())
    assert [id(one) for one in given] == [id(one) for one in chunks]


async def test_nothing_of_a_stream_leaves_before_all_of_it_was_judged(rail: LecGuardrail) -> None:
    proxy, left = Proxy(), []
    held = proxy.logging.async_post_call_streaming_iterator_hook(
        response=chunked("all is well, ", "all is well, " * 20, "att", "ack"),
        user_api_key_dict=proxy.key,
        request_data=asking("hi"),
    )
    with pytest.raises(HTTPException) as refused:
        async for chunk in held:
            left.append(chunk)
    assert left == []
    assert refused.value.status_code == 400


async def test_a_stream_is_rewritten(rail: LecGuardrail) -> None:
    assert text_of(await Proxy().stream(asking("hi"), chunked("oh da", "rn"))) == "oh dear"


async def test_a_call_in_a_stream_is_judged(rail: LecGuardrail) -> None:
    with pytest.raises(HTTPException):
        await Proxy().stream(asking("hi"), chunked("ok", tool_calls=[{"index": 0, **call('{"a": "attack"}')}]))


async def test_a_stream_that_nobody_can_read_does_not_pass(rail: LecGuardrail) -> None:
    async def bytes_() -> AsyncIterator[bytes]:
        yield b"an attack"

    with pytest.raises(HTTPException):
        await Proxy("/audio/speech").stream(asking("hi"), bytes_())
