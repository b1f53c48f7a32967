"""`/v1/check`, `/v1/scores`: what is judged, for whom, and how requests fail."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from lec_guard.serve.api.limits import Limits
from lec_guard.step import Step
from lec_guard.testing import FailingDetector, SlowDetector
from tests.serve.api.made import ACME, ALL, EXACT, OLD, TWO, site


def steps(*texts: str) -> dict[str, object]:
    return {"steps": [{"text": text} for text in texts]}


async def test_steps_are_judged_in_order_by_the_policy_of_the_key(api):
    answer = await api.ask("/v1/check", steps("hello", "an ATTACK"), key=ACME)
    assert answer.status_code == 200
    first, second = answer.json()["results"]
    assert (first["action"], second["action"]) == ("allow", "block")
    expected = api.guard.check_many([Step(stage="input", text="hello"), Step(stage="input", text="an ATTACK")], "acme")
    for found, own in zip((first, second), expected, strict=True):
        for name in ("rule", "message", "policy", "policy_version", "tenant", "stage", "detector_id"):
            assert found[name] == getattr(own, name)
    assert first["tenant"] == "acme"


async def test_one_step_needs_no_list(api):
    answer = await api.ask("/v1/check", {"steps": {"text": "an ATTACK", "stage": "tool_output"}})
    assert len(answer.json()["results"]) == 1


async def test_exact_scores_and_spans_are_for_keys_that_may_see_them(api):
    plain = (await api.ask("/v1/check", steps("an ATTACK"))).json()["results"][0]
    exact = (await api.ask("/v1/check", steps("an ATTACK"), key=EXACT)).json()["results"][0]
    assert plain["scores"] is plain["spans"] is None
    assert exact["scores"]["injection"]["injection"] == 1.0
    assert exact["spans"][0]["start"] == 3
    for path in ("/v1/scores", "/v1/detector"):
        refused = await api.ask(path, steps("x") if path == "/v1/scores" else None)
        assert refused.status_code == 403
        assert refused.json()["error"]["type"] == "permission"


async def test_with_act_the_text_that_may_pass_is_told(api):
    answer = await api.ask("/v1/check", {**steps("hello", "an ATTACK"), "act": True})
    first, second = answer.json()["results"]
    assert (first["text"], second["text"]) == ("hello", None)
    assert first["edits"] == []


@pytest.mark.parametrize(
    ("key", "named", "header", "status", "tenant"),
    [
        (ALL, None, None, 200, None),
        (ALL, "acme", None, 200, "acme"),
        (ALL, None, "acme", 200, "acme"),
        (ALL, "acme", "globex", 400, None),
        (ALL, "nobody-knows", None, 400, None),
        (ACME, None, None, 200, "acme"),
        (ACME, "globex", None, 403, None),
        (ACME, None, "globex", 403, None),
        (TWO, None, None, 400, None),
        (TWO, "globex", None, 200, "globex"),
        ("lgk_acme_next", None, None, 200, "acme"),
        (OLD, None, None, 401, None),
        ("lgk_wrong", None, None, 401, None),
        (None, None, None, 401, None),
        ("x" * 10_000, None, None, 401, None),
    ],
)
async def test_a_key_is_for_its_tenants(api, key, named, header, status, tenant):
    body = steps("hello") | ({} if named is None else {"tenant": named})
    more = {} if header is None else {"X-Lec-Guard-Tenant": header}
    answer = await api.ask("/v1/check", body, key=key, **more)
    assert answer.status_code == status
    if status == 200:
        assert answer.json()["results"][0]["tenant"] == tenant
    else:
        error = answer.json()["error"]
        assert error["request_id"] == answer.headers["x-request-id"]
        assert "globex" not in error["message"]


async def test_whoever_tries_keys_has_to_wait(api):
    statuses = [(await api.ask("/v1/check", steps("x"), key=f"lgk_{n}")).status_code for n in range(8)]
    assert statuses[:5] == [401] * 5
    assert statuses[-1] == 429
    assert (await api.ask("/v1/check", steps("x"))).status_code == 200  # a good key costs nothing


@pytest.mark.parametrize(
    ("content", "kind", "status", "says"),
    [
        (b"{", "application/json", 422, "JSON"),
        (b"[" * 100_000, "application/json", 400, "body"),
        (b'{"steps": [{"text": 1}]}', "application/json", 422, "text"),
        (b'{"steps": []}', "application/json", 422, "steps"),
        (b'{"steps": [{"text": "x", "stage": "nowhere"}]}', "application/json", 422, "stage"),
        (b'{"steps": [{"text": "x", "secret": 1}]}', "application/json", 422, "secret"),
        (b'{"steps": [{"text": "\\ud800"}]}', "application/json", 422, "text"),
        (b"\xff\xfe", "application/json", 422, "body"),
        (b"steps=1", "application/x-www-form-urlencoded", 415, "application/json"),
        (b"{}", "", 415, "application/json"),
    ],
)
async def test_what_can_not_be_read_is_refused_without_being_quoted(api, content, kind, status, says):
    async with api.client() as client:
        answer = await client.post("/v1/check", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == "invalid_request"
    assert says in error["message"]


async def test_unicode_in_every_field_is_judged(api):
    odd = "\U0001f600 \u202e \x00 \u2028 é \U000e0041"
    body = {
        "steps": [
            {
                "text": f"ATTACK {odd}",
                "context": odd,
                "tool": {"name": odd, "description": odd},
                "origin": {"trust": "third_party", "ids": [odd]},
                "stage": "tool_output",
            }
        ]
    }
    answer = await api.ask("/v1/check", body)
    assert answer.status_code == 200
    assert (await api.ask("/v1/check", steps("x") | {"tenant": odd})).status_code == 400


async def test_more_than_is_taken_is_refused(tmp_path, policies, keywords):
    limits = Limits(body_bytes=2_000, steps=3)
    with site(tmp_path, policies, keywords, limits=limits) as api:
        assert (await api.ask("/v1/check", steps("a", "b", "c"))).status_code == 200
        for body in (steps(*"abcd"), steps("x" * 3_000)):
            answer = await api.ask("/v1/check", body)
            assert answer.status_code == 413
            assert answer.json()["error"]["type"] == "too_much"


async def test_a_tenant_that_asks_too_often_has_to_wait(tmp_path, policies, keywords):
    with site(tmp_path, policies, keywords, limits=Limits(steps=4, rate_per_s=1.0)) as api:
        assert (await api.ask("/v1/check", steps(*"abcd"), key=ACME)).status_code == 200
        refused = await api.ask("/v1/check", steps(*"abcd"), key=ACME)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 4
        assert (await api.ask("/v1/check", steps(*"abcd") | {"tenant": "globex"})).status_code == 200


async def test_what_finds_no_room_is_refused_and_what_was_let_in_is_answered(tmp_path, policies, keywords):
    with site(tmp_path, policies, SlowDetector(keywords, 0.3), limits=Limits(waiting=2)) as api:
        asked = [asyncio.create_task(api.ask("/v1/check", steps("an ATTACK"))) for _ in range(8)]
        answers = await asyncio.gather(*asked)
        assert sorted(one.status_code for one in answers) == [200] * 2 + [429] * 6
        assert all(one.headers["retry-after"] == "1" for one in answers if one.status_code == 429)
        assert api.app.state.api.room.steps == 0


async def test_where_the_detector_fails_the_policy_decides(tmp_path, policies, keywords):
    with site(tmp_path, policies, FailingDetector(keywords.labels)) as api:
        found = (await api.ask("/v1/check", steps("hello"))).json()["results"][0]
        assert (found["action"], found["cause"]) == ("block", "error")
        scored = await api.ask("/v1/scores", steps("hello"), key=EXACT)
        assert scored.status_code == 500
        assert "hello" not in scored.text


async def test_a_server_that_stops_takes_nothing_more(api):
    assert (await api.ask("/healthz", key=None)).json() == {"status": "ready"}
    api.stopping.set()
    refused = await api.ask("/v1/check", steps("x"))
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    for path, status in (("/healthz", 503), ("/healthz/ready", 503), ("/healthz/live", 200)):
        assert (await api.ask(path, key=None)).status_code == status


async def test_the_log_has_a_line_for_a_request_and_no_text(api, caplog):
    caplog.set_level(logging.INFO, "lec_guard.serve.access")
    await api.ask("/v1/check", steps("an ATTACK on secrets"), key=ACME, **{"X-Request-Id": "mine-1"})
    (line,) = (json.loads(record.getMessage()) for record in caplog.records)
    assert {"request_id": "mine-1", "route": "/v1/check", "status": 200, "key": "acme", "tenant": "acme"}.items() <= (
        line.items()
    )
    assert "secrets" not in caplog.text
    caplog.clear()
    answer = await api.ask("/v1/no-such-secrets", key=None, **{"X-Request-Id": "a b\n"})
    assert answer.status_code == 404
    assert answer.headers["x-request-id"] != "a b\n"
    assert "secrets" not in caplog.text


async def test_what_nobody_foresaw_is_an_error_without_words(api, caplog, monkeypatch):
    async def broken(*_: object) -> None:
        raise RuntimeError("an ATTACK on secrets")

    monkeypatch.setattr(api.guard, "acheck_many", broken)
    answer = await api.ask("/v1/check", steps("hello"))
    assert answer.status_code == 500
    assert "secrets" not in answer.text + caplog.text
    assert "RuntimeError at" in caplog.text


async def test_numbers_are_for_keys_that_may_read_them(api):
    await api.ask("/v1/check", steps("an ATTACK"), key=ACME)
    assert (await api.ask("/metrics")).status_code == 403
    found = await api.ask("/metrics", key=EXACT)
    assert 'lec_guard_checks_total{stage="input",tenant="acme"} 1.0' in found.text
