"""Guards and detectors on another machine: the same verdicts, and what follows where it is gone."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from lec_guard import Guard, GuardBlocked, GuardRunnable
from lec_guard.detect.calling import KEY_VARIABLE, Patience, RefusedByServer
from lec_guard.detect.remote import RemoteDetector
from lec_guard.detect.submitting import Submitting
from lec_guard.errors import DetectorError, OverloadError
from lec_guard.serve.api.limits import Limits
from lec_guard.serve.client import RemoteGuard
from lec_guard.step import Origin, Step, ToolRef
from tests.conftest import POLICIES, write_policies
from tests.serve.api.live import live
from tests.serve.api.made import ACME, ALL, EXACT, Site

QUICK = Patience(timeout_s=2.0, tries=2, wait_s=0.01, most_wait_s=0.02, failures=3, rest_s=30.0)
STEPS = [
    Step(stage="input", text="hello"),
    Step(stage="input", text="an ATTACK", context="be kind"),
    Step(
        stage="tool_output",
        text="an ATTACK \ud800 \U0001f600",
        tool=ToolRef(name="web", description="reads"),
        origin=Origin(trust="third_party", ids=("d1",)),
    ),
    Step(stage="output", text="POISON and DARN"),
    Step(stage="input", text=""),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    from lec_guard.testing import KeywordDetector

    folder = tmp_path_factory.mktemp("served")
    detector = KeywordDetector(
        {"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}}
    )
    site = Site(folder, write_policies(folder / "policies", POLICIES), detector, limits=Limits(steps=3))
    site.policies = folder / "policies"
    with live(site.app) as url:
        site.url = url
        yield site
    site.close()


@pytest.fixture
def remote(served):
    made = RemoteGuard(served.url, key=EXACT, most_steps=3, patience=QUICK)
    yield made
    made.close()


def same(found, own):
    for name in ("action", "rule", "matched", "message", "messages", "policy", "policy_version", "tenant", "stage"):
        assert getattr(found, name) == getattr(own, name)
    assert found.scores == own.scores
    assert found.spans == own.spans


def test_a_remote_guard_says_what_the_guard_there_says(served, remote):
    for tenant in (None, "acme", "globex"):
        for found, own in zip(remote.check_many(STEPS, tenant), served.guard.check_many(STEPS, tenant), strict=True):
            same(found, own)
    outcomes, own = remote.apply_many(STEPS), served.guard.apply_many(STEPS)
    assert [one.verdict.action for one in outcomes] == [one.verdict.action for one in own]
    assert [one.text for one in outcomes[:2]] == [one.text for one in own[:2]]


async def test_the_async_forms_say_the_same(remote):
    assert [one.action for one in await remote.acheck_many(STEPS)] == [one.action for one in remote.check_many(STEPS)]
    assert (await remote.acheck(STEPS[1])).blocked
    assert (await remote.aapply(STEPS[1])).text is None
    assert remote.check(STEPS[1]).blocked
    assert remote.apply(STEPS[0]).text == "hello"


def test_a_wrong_key_is_told_and_is_no_failure_of_the_server(served):
    guard = RemoteGuard(served.url, key="lgk_wrong", patience=QUICK)
    for _ in range(4):
        with pytest.raises((RefusedByServer, OverloadError), match="key"):
            guard.check(STEPS[0])
    guard.close()
    guard = RemoteGuard(served.url, key=ACME, patience=QUICK)
    with pytest.raises(RefusedByServer, match="not for that tenant"):
        guard.check(STEPS[0], "globex")
    guard.close()


def test_a_key_that_sees_no_scores_gives_verdicts_without(served):
    guard = RemoteGuard(served.url, key=ALL, patience=QUICK)
    found = guard.check(STEPS[1])
    assert found.blocked
    assert (dict(found.scores), found.spans) == ({}, ())
    with pytest.raises(RefusedByServer, match="exact scores"):
        RemoteDetector(served.url, key=ALL, patience=QUICK)


def test_one_argument_moves_the_model_to_another_machine(served, loaded, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, EXACT)
    here = GuardRunnable.from_policies(served.policies, detector=served.batcher)
    there = GuardRunnable.from_policies(served.policies, detector=served.url)
    assert there.invoke("hello") == here.invoke("hello") == "hello"
    for guard in (here, there):
        with pytest.raises(GuardBlocked) as caught:
            guard.invoke("an ATTACK")
        assert caught.value.verdict.rule == "injection"


def test_a_remote_detector_scores_as_the_one_there(served):
    detector = RemoteDetector(served.url, key=EXACT, patience=QUICK)
    assert isinstance(detector, Submitting)
    assert detector.labels == served.batcher.labels
    assert detector.score(STEPS, keys=["a", "b", "a", None, "b"]) == served.batcher.score(
        [Step(stage=step.stage, text=step.text.replace("\ud800", "\ufffd")) for step in STEPS]
    )
    assert detector.score([]) == []
    with pytest.raises(ValueError, match="keys"):
        detector.score(STEPS, keys=["a"])
    detector.close()
    detector.close()
    with pytest.raises(DetectorError, match="closed"):
        detector.score(STEPS)


async def test_a_guard_with_a_remote_detector_judges_alike_in_both_forms(served, loaded, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, EXACT)
    guard = Guard.from_policies(served.policies, detector=served.url)
    verdicts = await asyncio.gather(*(guard.acheck(step) for step in STEPS))
    assert [one.action for one in verdicts] == [one.action for one in guard.check_many(STEPS)]
    guard.close()


# --- where it is gone


def answers(*statuses, body=None, headers=None):
    """A server that gives these in turn, and the last of them from then on."""
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        status = statuses[min(len(asked), len(statuses)) - 1]
        if isinstance(status, Exception):
            raise status
        return httpx.Response(status, json=body or {}, headers=headers or {})

    return httpx.MockTransport(answer), asked


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (httpx.ConnectError("no"), "error"),
        (httpx.ReadTimeout("late"), "timeout"),
        (500, "error"),
        (503, "timeout"),
        (429, "timeout"),
        (200, "error"),  # something else answers
    ],
)
@pytest.mark.parametrize("fail", ["block", "allow"])
def test_fail_decides_where_the_server_is_gone(failure, cause, fail):
    transport, asked = answers(failure)
    guard = RemoteGuard("https://guard.example.com", key="k", fail=fail, patience=QUICK, transport=transport)
    outcome = guard.apply(Step(stage="input", text="hello"))
    assert (outcome.verdict.action, outcome.verdict.rule, outcome.verdict.cause) == (fail, f"fail:{cause}", cause)
    assert outcome.text == ("hello" if fail == "allow" else None)
    assert (outcome.verdict.message is None) == (fail == "allow")
    assert len(asked) == (1 if failure in (200, 500) else 2)
    guard.close()


def test_a_server_that_fails_time_and_again_is_left_alone():
    transport, asked = answers(httpx.ConnectError("no"))
    guard = RemoteGuard("https://guard.example.com", key="k", patience=QUICK, transport=transport)
    for _ in range(6):
        assert guard.check(STEPS[0]).cause == "error"
    assert len(asked) == QUICK.failures * QUICK.tries
    guard.close()


def test_a_second_try_may_do():
    body = json.loads('{"results": []}')
    transport, asked = answers(503, 200, body=body, headers={"Retry-After": "1"})
    guard = RemoteGuard("https://guard.example.com", key="k", patience=QUICK, transport=transport)
    assert guard.check(STEPS[0]).cause == "error"  # no result for a step
    assert len(asked) == 2
    assert asked[0].headers["authorization"] == "Bearer k"
    guard.close()


def test_a_detector_that_changed_is_refused():
    found = {"detector_id": "d@1", "labels": {"injection": ["injection"]}, "heads": [], "window_tokens": 64}
    scores = {
        "by_head": {"injection": {"injection": 0.0}}, "spans": [], "windows": 1, "context_read": False, "unread": None,
        "over_budget": False, "detector_id": "d@2", "backend": "b",
    }  # fmt: skip

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=found | {"most_steps": 8} if request.method == "GET" else {"results": [scores]})

    detector = RemoteDetector("https://g.example.com", key="k", patience=QUICK, transport=httpx.MockTransport(answer))
    with pytest.raises(DetectorError, match="make the guard anew"):
        detector.score([Step(stage="input", text="x")])
    detector.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://guard.example.com", "no address"),
        ("https://", "no address"),
        ("https://me:secret@guard.example.com", "no address"),
        ("http://guard.example.com", "in the clear"),
        ("https://[", "no address"),
    ],
)
def test_addresses_that_are_none_or_leak_are_refused(url, says):
    with pytest.raises(DetectorError, match=says):
        RemoteGuard(url, key="k")


def test_a_key_is_needed(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(DetectorError, match=KEY_VARIABLE):
        RemoteGuard("https://guard.example.com")
    with pytest.raises(DetectorError, match="block or allow"):
        RemoteGuard("https://guard.example.com", key="k", fail="maybe")
    with pytest.raises(DetectorError, match="tries must be above 0"):
        Patience(tries=0)


def test_what_no_detector_s_server_says_is_refused_at_load():
    transport, _ = answers(200, body={"hello": 1})
    with pytest.raises(DetectorError, match="another version"):
        RemoteDetector("https://guard.example.com", key="k", patience=QUICK, transport=transport)
