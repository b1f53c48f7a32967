"""LiteLLM's generic guardrail API."""

from __future__ import annotations

import copy
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, JsonValue

from lec_guard.chain.values import ajudge, released
from lec_guard.errors import EscalationPending, GuardBlocked, UnsupportedValueError
from lec_guard.serve.api.check import PROBLEMS
from lec_guard.serve.api.services import Api, Asking, admitted, size_of, tenant_of
from lec_guard.serve.litellm_inputs import InputType, request_parts, response_parts

routes = APIRouter(responses=PROBLEMS)


class GuardrailBody(BaseModel):
    """What LiteLLM sends.

    Other fields are taken and not read, `additional_provider_specific_params` among them: the proxy mixes into these
    what its own callers send, so nothing there may say how something is judged. The key does, and the header
    X-Lec-Guard-Tenant, which an operator writes under `headers` of the proxy's configuration.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"input_type": "request", "texts": ["Where is it?"]}]})

    input_type: InputType
    texts: list[str] | None = None
    images: list[JsonValue] | None = None
    tools: list[dict[str, JsonValue]] | None = None
    tool_calls: list[dict[str, JsonValue]] | None = None
    structured_messages: list[dict[str, JsonValue]] | None = None


class GuardrailOut(BaseModel):
    """What LiteLLM reads; `action` as it spells them, for anything but an exact BLOCKED passes there."""

    action: Literal["NONE", "BLOCKED", "GUARDRAIL_INTERVENED"]
    blocked_reason: str | None = None
    texts: list[str] | None = None
    tools: list[dict[str, Any]] | None = None


@routes.post(
    "/beta/litellm_basic_guardrail_api",
    tags=["litellm"],
    summary="LiteLLM's generic guardrail API",
    response_model_exclude_none=True,
)
async def guardrail(request: Request, body: GuardrailBody, ours: Api, key: Asking) -> GuardrailOut:
    """Judge a request or an answer that passes LiteLLM's proxy, and rewrite it as the policy says.

    What can't be read (an image) is blocked, and so are what somebody has yet to decide on and rewritten tool calls,
    which LiteLLM does not take back.
    """
    tenant = tenant_of(request, key, None)
    inputs = {name: getattr(body, name) for name in ("texts", "images", "tools", "tool_calls", "structured_messages")}
    calls = copy.deepcopy(body.tool_calls)
    try:
        if body.input_type == "request":
            parts = request_parts(inputs, key.system_messages)
        else:
            parts = response_parts(inputs, {"messages": body.structured_messages}, key.system_messages)
        steps = [step for reading in parts.readings for step in reading.steps]
        await admitted(ours, key, tenant, steps)
        with ours.room.taken(len(steps), size_of(steps)):
            judged = await ajudge(ours.guard, parts.readings, tenant, parts.answered)
        after = parts.back([released(one) for one in judged], is_fixed=False)
    except GuardBlocked as error:
        return GuardrailOut(action="BLOCKED", blocked_reason=error.verdict.message or "The guard refuses this.")
    except EscalationPending as error:
        reason = f"Somebody has yet to decide on this: ticket {error.ticket}."
        return GuardrailOut(action="BLOCKED", blocked_reason=reason)
    except UnsupportedValueError as error:
        return GuardrailOut(action="BLOCKED", blocked_reason=f"This can't be read: {error}")
    if after.get("tool_calls") != calls:  # which are changed in place; LiteLLM takes none back
        return GuardrailOut(action="BLOCKED", blocked_reason="A tool call may not pass as it is.")
    changed = {name: after[name] for name in ("texts", "tools") if after.get(name) != inputs[name]}
    return GuardrailOut(action="GUARDRAIL_INTERVENED" if changed else "NONE", **changed)
