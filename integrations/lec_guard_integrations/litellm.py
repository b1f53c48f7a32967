"""LiteLLM: a guardrail for its proxy, and for `litellm.acompletion`."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from lec_guard.chain.messages import SystemMessages, known_system_messages
from lec_guard.chain.values import ajudge, released
from lec_guard.errors import EscalationPending, GuardBlocked, LecGuardError, TenantMismatch, UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.serve.litellm_inputs import InputType, request_parts, response_parts

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
        known: Any = load_guardrail_translation_mappings()  # type: ignore[no-untyped-call] # no types there
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
        if input_type == "request":
            parts = request_parts(inputs, self.system_messages)
        else:
            parts = response_parts(inputs, request_data, self.system_messages)
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
