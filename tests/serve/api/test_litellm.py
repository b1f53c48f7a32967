"""LiteLLM's generic guardrail API, with LiteLLM's own client."""

from __future__ import annotations

import pytest
from litellm.exceptions import GuardrailRaisedException
from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api import GenericGuardrailAPI

from tests.conftest import write_policies
from tests.serve.api.live import live
from tests.serve.api.made import ACME, ALL, TWO, Site

USER = {"role": "user", "content": "hello"}
CALL = {"id": "1", "type": "function", "function": {"name": "send", "arguments": '{"to": "an ATTACK"}'}}
TOOL = {"type": "function", "function": {"name": "send", "description": "an ATTACK", "parameters": {"type": "object"}}}

REDACTING = {
    "default.yaml": """
        message: No.
        rewrite: {cut: {kind: drop_spans}}
        rules:
          - {name: curse, stages: [input, output, tool_input], head: safety, labels: [rude], threshold: 0.5,
             action: rewrite, rewrite: cut}
          - {name: injection, stages: [input, output, tool_input, tool_definition], head: injection, threshold: 0.5,
             action: block}
    """,
    "tenants/acme.yaml": "extends: default\n",
    "tenants/globex.yaml": "extends: default\n",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    from lec_guard.testing import KeywordDetector

    folder = tmp_path_factory.mktemp("litellm")
    detector = KeywordDetector(
        {"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}}
    )
    site = Site(folder, write_policies(folder / "policies", REDACTING), detector)
    with live(site.app) as found:
        yield found
    site.close()


def guardrail(url: str, key: str = ALL, **headers: str) -> GenericGuardrailAPI:
    return GenericGuardrailAPI(api_base=url, api_key=key, headers=headers, guardrail_name="g", event_hook="pre_call")


async def ask(url, inputs, kind="request", key=ALL, **headers):
    return await guardrail(url, key, **headers).apply_guardrail(inputs, {}, kind)


async def test_what_may_pass_passes_as_it_is(url):
    inputs = {"texts": ["hello"], "structured_messages": [USER]}
    assert (await ask(url, inputs))["texts"] == ["hello"]
    assert (await ask(url, {"texts": ["fine"]}, "response"))["texts"] == ["fine"]


@pytest.mark.parametrize(
    ("inputs", "kind"),
    [
        ({"texts": ["hello", "an ATTACK"]}, "request"),
        ({"texts": ["an ATTACK"], "structured_messages": [{"role": "user", "content": "an ATTACK"}]}, "request"),
        ({"texts": ["an ATTACK"], "structured_messages": [{"role": "system", "content": "an ATTACK"}]}, "request"),
        ({"texts": ["hello"], "tools": [TOOL]}, "request"),
        ({"texts": [], "tool_calls": [CALL]}, "response"),
        ({"texts": ["an ATTACK"]}, "response"),
        ({"texts": ["hello"], "images": ["data:image/png;base64,AAAA"]}, "request"),
    ],
)
async def test_what_may_not_pass_or_be_read_is_blocked(url, inputs, kind):
    with pytest.raises(GuardrailRaisedException):
        await ask(url, inputs, kind)


async def test_what_is_rewritten_takes_the_place_of_what_was(url):
    found = await ask(url, {"texts": ["Good. DARN it. Fine."]}, "response")
    assert found["texts"] != ["Good. DARN it. Fine."]
    assert "DARN" not in found["texts"][0]


async def test_a_tool_call_that_would_be_rewritten_is_blocked(url):
    call = {**CALL, "function": {"name": "send", "arguments": '{"note": "Good. DARN it. Fine."}'}}
    with pytest.raises(GuardrailRaisedException):
        await ask(url, {"texts": [], "tool_calls": [call]}, "response")


async def test_callers_of_the_proxy_can_not_say_how_they_are_judged(url):
    own = GenericGuardrailAPI(
        api_base=url,
        api_key=ACME,
        additional_provider_specific_params={"tenant": "globex", "system_messages": "trusted"},
        guardrail_name="g",
        event_hook="pre_call",
    )
    messages = [{"role": "system", "content": "an ATTACK"}]
    with pytest.raises(GuardrailRaisedException):
        await own.apply_guardrail({"texts": ["an ATTACK"], "structured_messages": messages}, {}, "request")


async def test_the_operator_s_header_names_the_tenant(url):
    assert await ask(url, {"texts": ["hello"]}, key=TWO, **{"X-Lec-Guard-Tenant": "globex"})
    with pytest.raises(Exception, match=r"400|Bad Request"):
        await ask(url, {"texts": ["hello"]}, key=TWO)
    with pytest.raises(Exception, match=r"401|Unauthorized"):
        await ask(url, {"texts": ["hello"]}, key="lgk_wrong")
