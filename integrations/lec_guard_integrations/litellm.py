"""LiteLLM: a guardrail for its proxy, and for `litellm.acompletion`."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lec_guard.chain.lens import Reading, read
from lec_guard.chain.messages import SystemMessages, known_system_messages, request_of
from lec_guard.chain.plan import Passed
from lec_guard.errors import EscalationPending, GuardBlocked, LecGuardError, TenantMismatch, UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard_integrations.values import ajudge, released

try:
    from litellm.integrations.custom_guardrail import CustomGuardrail
    from litellm.litellm_core_utils.api_route_to_call_types import get_call_types_for_route
    from litellm.llms import load_guardrail_translation_mappings
    from litellm.llms.base_llm.base_model_iterator import MockResponseIterator
    from litellm.llms.openai.chat.guardrail_translation.handler import OpenAIChatCompletionsHandler
    from litellm.main import stream_chunk_builder
    from litellm.types.guardrails import GuardrailEventHooks
    from litellm.types.utils import CallTypes, ModelResponseStream
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(f"LecGuardrail needs {missing.name}; run: pip install 'lec-guard[litellm]'") from None

InputType = Literal["request", "response"]
"""Which way what LiteLLM gives a guardrail goes."""

_WHERE = (GuardrailEventHooks.pre_call, GuardrailEventHooks.post_call)
"""Where it can stand: `during_call` runs beside the model, which has been called when the guard says no."""


class LecGuardrail(CustomGuardrail):
    """A guard as a guardrail of LiteLLM's.

    In the proxy, requests to `/chat/completions` are judged message by message, with their roles and tool calls, and
    so are the tools that they define; rewritten texts, arguments and definitions take the place of the old ones.
    Requests in other forms (`/v1/messages`, `/v1/responses`) are judged in LiteLLM's translation as well as text by
    text; there a rewrite is a block, for it can't be put back everywhere. Answers and their tool calls are judged
    before they are sent, with the request as context; a stream is held back whole.

    | | in the proxy | `litellm.acompletion` |
    |---|---|---|
    | blocked | HTTP 400 with the policy's message | `GuardBlocked` |
    | somebody has yet to decide | HTTP 409 with a ticket | `EscalationPending` |
    | can't be read (an image) | HTTP 400 | `UnsupportedValueError` |
    | unknown tenant, failing sink | HTTP 500 | the error |

    `litellm.acompletion` needs its messages by keyword, and can't stream where answers are judged: LiteLLM gives a
    callback no hold of a stream there. The sync `litellm.completion` calls no guardrail at all.

    The proxy asks no guardrail about messages that are all images: such a request is refused only when its answer is
    judged. One object serves all requests.

    Args:
        guard: What judges.
        guardrail_name: What LiteLLM knows it by.
        event_hook: Where it stands: `pre_call`, `post_call`, or a list of both; None for both.
        default_on: Whether it judges every request, and no request can switch it off; else those that name it.
        tenant: The tenant of all requests; None where the request's metadata name it.
        tenant_key: The key of the request's metadata that names the tenant. In a proxy take one that the proxy itself
            sets, such as `user_api_key_team_id`: any other is what the caller says.
        system_messages: Whose system messages in a request are. `trusted`: the operator's own; they are context, and
            not judged. `judged`: the caller's, as in a proxy that anybody with a key can call; judged like a user's.
        **kwargs: For `CustomGuardrail`.

    Raises:
        ValueError: If it is to stand anywhere else.
        PolicyError: If the tenant is unknown.
        UnsupportedValueError: If `system_messages` is neither.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """The proxy looks for these methods in the class itself, and would not call those of a subclass's base."""
        super().__init_subclass__(**kwargs)
        for name in ("apply_guardrail", "async_post_call_streaming_iterator_hook"):
            if name not in cls.__dict__:
                setattr(cls, name, getattr(cls, name))

    def __init__(
        self,
        guard: Guard,
        *,
        guardrail_name: str = "lec-guard",
        event_hook: Any = None,
        default_on: bool = True,
        tenant: str | None = None,
        tenant_key: str | None = None,
        system_messages: SystemMessages = "trusted",
        **kwargs: Any,
    ) -> None:
        where: Any = [one.value for one in _WHERE] if event_hook is None else event_hook
        super().__init__(
            guardrail_name=guardrail_name,
            supported_event_hooks=list(_WHERE),
            event_hook=where,
            default_on=default_on,
            **kwargs,
        )
        if tenant is not None:
            guard.policy(tenant)
        self.guard = guard
        self.tenant = tenant
        self.tenant_key = tenant_key
        self.system_messages: SystemMessages = known_system_messages(system_messages)

    def get_disable_global_guardrail(self, data: dict[str, Any]) -> bool:  # noqa: ARG002
        """No request can switch the guard off.

        Args:
            data: The request.

        Returns:
            False.
        """
        return False

    # --- the proxy

    async def apply_guardrail(
        self,
        inputs: Any,
        request_data: dict[str, Any],
        input_type: InputType,
        logging_obj: Any = None,  # noqa: ARG002 - LiteLLM's signature
    ) -> Any:
        """Judge what LiteLLM has found in a request or an answer.

        Args:
            inputs: `texts`, `tool_calls`, `tools`, `images`, `structured_messages`.
            request_data: The request.
            input_type: Which way it goes.
            logging_obj: Not used.

        Returns:
            The inputs, with what was rewritten. Tool calls of an answer are changed in place as well, for that is
            where LiteLLM looks.

        Raises:
            HTTPException: If something may not pass.
        """
        try:
            return await self.judge(inputs, request_data, input_type)
        except LecGuardError as error:
            raise _refusal(error) from error

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: Any,
        response: AsyncIterator[Any],
        request_data: dict[str, Any],
    ) -> AsyncGenerator[Any, None]:
        """Hold a stream back until all of it was judged.

        Args:
            user_api_key_dict: Who asks.
            response: The stream.
            request_data: The request.

        Yields:
            The same chunks, or one with what was rewritten.

        Raises:
            HTTPException: If it may not pass; before the first chunk.
        """
        if self.should_run_guardrail(request_data, GuardrailEventHooks.post_call) is not True:
            async for chunk in response:
                yield chunk
            return
        held = [chunk async for chunk in response]
        try:
            held = await self._stream(held, user_api_key_dict, request_data)
        except LecGuardError as error:
            raise _refusal(error) from error
        for chunk in held:
            yield chunk

    async def _stream(self, held: list[Any], user: Any, request_data: dict[str, Any]) -> list[Any]:
        if held and all(isinstance(chunk, ModelResponseStream) for chunk in held):
            if any(choice.index for chunk in held for choice in chunk.choices):
                raise UnsupportedValueError("a stream of several choices can't be judged: ask for one")
            judging: Any = _Judging(self)
            whole: Any = stream_chunk_builder(chunks=held)
            if whole is None:
                raise UnsupportedValueError("a stream of this kind can't be judged")
            await OpenAIChatCompletionsHandler().process_output_response(
                whole,
                guardrail_to_apply=judging,
                user_api_key_dict=user,
                request_data={**request_data, "response": whole},
            )
            return [chunk async for chunk in MockResponseIterator(whole)] if judging.changed else held
        types = get_call_types_for_route(getattr(user, "request_route", None) or "") or []
        known: Any = load_guardrail_translation_mappings()  # type: ignore[no-untyped-call]
        translation = next((known[one] for one in types if one in known), None)
        judging = _Judging(self, is_fixed=True)
        if translation is not None:
            await translation().process_output_streaming_response(
                responses_so_far=copy.deepcopy(held),
                guardrail_to_apply=judging,
                user_api_key_dict=user,
                request_data=dict(request_data),
            )
        if held and not judging.asked:
            raise UnsupportedValueError("a stream of this kind can't be judged")
        return held

    # --- litellm.acompletion

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: CallTypes | None
    ) -> dict[str, Any] | None:
        """Judge a request of `litellm.acompletion`, before the model is called.

        Args:
            kwargs: Its keywords.
            call_type: What is called.

        Returns:
            The keywords; the caller's messages are not changed.

        Raises:
            GuardBlocked: If it may not pass.
            EscalationPending: If somebody has yet to decide.
            UnsupportedValueError: If it can't be read.
        """
        if not _is_ours(kwargs, call_type):
            return kwargs
        judges_answers = self.should_run_guardrail(kwargs, GuardrailEventHooks.post_call)
        if kwargs.get("stream") and judges_answers:
            raise UnsupportedValueError(
                "LiteLLM gives a guardrail no hold of a stream outside of its proxy: call without stream=True"
            )
        if not self.should_run_guardrail(kwargs, GuardrailEventHooks.pre_call):
            return kwargs
        if not kwargs.get("messages"):
            raise UnsupportedValueError("the guard finds no messages: give messages=... by keyword")
        data: dict[str, Any] = {**kwargs, "messages": copy.deepcopy(kwargs["messages"])}
        judging: Any = _Judging(self)
        judged: dict[str, Any] = await OpenAIChatCompletionsHandler().process_input_messages(data, judging)
        if not judging.asked:  # LiteLLM asks no guardrail about messages that are all images.
            await self.judge({"structured_messages": data["messages"]}, data, "request")
        return judged

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: Any, call_type: CallTypes | None
    ) -> Any:
        """Judge an answer that `litellm.acompletion` is to give.

        Args:
            request_data: The keywords of the request.
            response: The answer.
            call_type: What was called.

        Returns:
            The answer, perhaps rewritten; None where it is none of the guard's business.

        Raises:
            GuardBlocked: If it may not pass.
            EscalationPending: If somebody has yet to decide.
        """
        if not _is_ours(request_data, call_type):
            return None
        if not self.should_run_guardrail(request_data, GuardrailEventHooks.post_call):
            return None
        judging: Any = _Judging(self)
        data = {**request_data, "response": response}
        return await OpenAIChatCompletionsHandler().process_output_response(response, judging, request_data=data)

    # --- judging

    async def judge(
        self, inputs: Any, request_data: Mapping[str, Any], input_type: InputType, *, is_fixed: bool = False
    ) -> dict[str, Any]:
        """`apply_guardrail` with the guard's own errors.

        Args:
            inputs: As there.
            request_data: As there.
            input_type: As there.
            is_fixed: Whether nothing that is rewritten can be put back, so that a rewrite is a block.

        Returns:
            As there.

        Raises:
            GuardBlocked: If something may not pass.
            EscalationPending: If somebody has yet to decide.
            UnsupportedValueError: If something can't be read.
            TenantMismatch: If the request's metadata name several tenants.
        """
        if inputs.get("images"):
            raise UnsupportedValueError("there are images: the guard reads text, and passes nothing unread")
        if input_type == "request":
            parts = _request(inputs, self.system_messages)
        else:
            parts = _response(inputs, request_data, self.system_messages)
        judged = await ajudge(self.guard, parts.readings, self._tenant(request_data), parts.answered)
        return parts.back([released(one) for one in judged], is_fixed=is_fixed)

    def _tenant(self, request_data: Mapping[str, Any]) -> str | None:
        """The tenant of a request; a caller can send both kinds of metadata, the proxy fills in one."""
        named = {} if self.tenant is None else {"the guardrail is bound to": self.tenant}
        for name in ("metadata", "litellm_metadata") if self.tenant_key is not None else ():
            metadata = request_data.get(name)
            if isinstance(metadata, Mapping) and self.tenant_key in metadata:
                named[f"{name} name"] = metadata[self.tenant_key]
        if any(one is not None and not isinstance(one, str) for one in named.values()):
            raise TenantMismatch(f"{self.tenant_key} of a request's metadata is no str")
        if len(set(named.values())) > 1:
            raise TenantMismatch("; ".join(f"{source} {tenant!r}" for source, tenant in named.items()))
        return next(iter(named.values()), None)


@dataclass(slots=True)
class _Judging:
    """One use of a guardrail where LiteLLM's translation calls it: the guard's own errors, and what came of it.

    Attributes:
        guardrail: The guardrail.
        is_fixed: Whether nothing that is rewritten can be put back.
        asked: Whether anything was judged.
        changed: Whether anything was rewritten.
    """

    guardrail: LecGuardrail
    is_fixed: bool = False
    asked: bool = False
    changed: bool = False

    @property
    def guardrail_name(self) -> str | None:
        """As LiteLLM knows it."""
        return self.guardrail.guardrail_name

    async def apply_guardrail(
        self,
        inputs: Any,
        request_data: dict[str, Any],
        input_type: InputType,
        logging_obj: Any = None,  # noqa: ARG002 - LiteLLM's signature
    ) -> Any:
        """Judge, and note what came of it."""
        before = copy.deepcopy({key: inputs.get(key) for key in ("texts", "tool_calls")})
        after = await self.guardrail.judge(inputs, request_data, input_type, is_fixed=self.is_fixed)
        self.asked = True
        self.changed |= any(after.get(key) != value for key, value in before.items())
        return after


@dataclass(slots=True)
class _Parts:
    """What is judged of a request or an answer, and the way back.

    Attributes:
        inputs: What LiteLLM gave.
        readings: What is judged.
        places: For each of them where its new value belongs: a key of the inputs and a position there. None where
            it can't be put back.
        answered: What an answer answers, where that is known.
    """

    inputs: Any
    readings: list[Reading] = field(default_factory=list)
    places: list[tuple[str, int] | None] = field(default_factory=list)
    answered: Reading | None = None

    def add(self, reading: Reading, place: tuple[str, int] | None) -> None:
        """Have one more value judged."""
        self.readings.append(reading)
        self.places.append(place)

    def back(self, passed: Sequence[Passed], *, is_fixed: bool) -> dict[str, Any]:
        """The inputs with what was rewritten; a block where that can't be put back."""
        after = {key: list(self.inputs[key]) for key in ("texts", "tool_calls", "tools") if self.inputs.get(key)}
        for one, reading, place in zip(passed, self.readings, self.places, strict=True):
            if one.value is reading.value:
                continue
            if place is None or is_fixed:
                raise GuardBlocked(replace(one.verdict, action="block"))
            key, at = place
            match key:
                case "messages":
                    after |= {"texts": _texts(one.value), "tool_calls": _calls(one.value)}
                case "tool_calls":
                    after[key][at] = _calls(one.value)[0]
                case _:
                    after[key][at] = one.value
        for old, new in zip(self.inputs.get("tool_calls") or [], after.get("tool_calls", []), strict=True):
            if new is not old:
                # LiteLLM looks for an answer's calls where it has put them.
                old["function"] = new["function"]
        return {**self.inputs, **after}


def _request(inputs: Any, system_messages: SystemMessages) -> _Parts:
    """What is judged of a request."""
    parts = _Parts(inputs)
    messages = inputs.get("structured_messages") or []
    texts, calls = inputs.get("texts") or [], inputs.get("tool_calls") or []
    is_chat = bool(messages) and (_texts(messages), _calls(messages)) == (texts, calls)
    if messages:
        parts.add(read(messages, "input", None, system_messages), ("messages", 0) if is_chat else None)
    if not is_chat:
        for at, text in enumerate(texts):
            parts.add(read(text, "input"), None if messages else ("texts", at))
        for at, call in enumerate(calls):
            parts.add(_called(call, None), None if messages else ("tool_calls", at))
    for at, tool in enumerate(inputs.get("tools") or []):
        parts.add(read(tool, "tool_definition"), ("tools", at))
    return parts


def _response(inputs: Any, request_data: Mapping[str, Any], system_messages: SystemMessages) -> _Parts:
    """What is judged of an answer."""
    parts = _Parts(inputs)
    asked = request_data.get("messages")
    request: str | None = None
    if isinstance(asked, list) and asked:
        request = request_of(asked, system_messages)
        parts.answered = read(asked, "input", None, system_messages)
    for at, text in enumerate(inputs.get("texts") or []):
        parts.add(read(text, "output", request), ("texts", at))
    for at, call in enumerate(inputs.get("tool_calls") or []):
        parts.add(_called(call, request), ("tool_calls", at))
    for choice in getattr(request_data.get("response"), "choices", None) or []:
        thoughts = getattr(getattr(choice, "message", None), "reasoning_content", None)
        if isinstance(thoughts, str) and thoughts:
            parts.add(read(thoughts, "output", request), None)
    return parts


def _called(call: Mapping[str, Any], request: str | None) -> Reading:
    """A tool call as the message that makes it."""
    return read([{"role": "assistant", "content": None, "tool_calls": [call]}], request=request)


def _texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """All texts of messages, in the order in which LiteLLM lists them."""
    found: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            found.append(content)
        elif isinstance(content, list):
            found += [block["text"] for block in content if isinstance(block, dict) and block.get("text") is not None]
    return found


def _calls(messages: Sequence[Mapping[str, Any]]) -> list[Any]:
    """All tool calls of messages, likewise."""
    return [
        call
        for message in messages
        if isinstance(message.get("tool_calls"), list)
        for call in message["tool_calls"]
        if isinstance(call, dict)
    ]


def _is_ours(kwargs: Mapping[str, Any], call_type: CallTypes | None) -> bool:
    """Whether a call is of an application's own; what comes through the proxy was judged there."""
    return call_type == CallTypes.acompletion and "proxy_server_request" not in kwargs


def _refusal(error: LecGuardError) -> Exception:
    """An error as the proxy answers it: no scores, and no text."""
    try:
        from fastapi import HTTPException
    except ModuleNotFoundError:
        return error  # There is no proxy.
    match error:
        case GuardBlocked():
            status, said = 400, error.verdict.message or "The guard refuses this."
        case EscalationPending():
            status, said = 409, "Somebody has yet to decide on this."
        case UnsupportedValueError():
            status, said = 400, str(error)
        case _:
            status, said = 500, "The guard could not judge this."
    detail: dict[str, Any] = {"error": said, "type": type(error).__name__}
    if isinstance(error, GuardBlocked | EscalationPending):
        detail["stage"] = error.verdict.stage
    if isinstance(error, EscalationPending):
        detail["ticket"] = error.ticket
    return HTTPException(status_code=status, detail=detail)
