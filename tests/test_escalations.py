"""People, services and models that a policy asks, end to end: real queues, a real server, and what fails on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda

from lec_guard import (
    EffectEvent,
    EscalationPending,
    EscalationResolved,
    GuardBlocked,
    GuardRunnable,
    PolicyError,
    Reply,
    Step,
    VerdictEvent,
)
from lec_guard.act.queue import Item, ReviewQueue
from lec_guard.testing import ScriptedChatModel
from tests.act.test_opinion import Model, saying
from tests.act.webhook.service import (
    SECRET,
    Behaviour,
    Service,
    breaks,
    floods,
    hangs,
    reply,
    running,
    send,
    status,
)
from tests.chain.test_effects import run
from tests.conftest import ROOT
from tests.test_acting import BOTH, World

POLICY = """
    message: No.
    hold_back: all
    unknown_tenant: default
    allowed_hosts: [{hosts}]
    escalations:
      boss: {{{boss}}}
    rules:
      - {{name: block, stages: [input, output], head: injection, threshold: 0.5, action: block}}
      - {{name: ask, stages: [input, output], head: safety, labels: [unsafe], threshold: 0.5, action: escalate,
         escalation: boss}}
"""


def policy(boss: str, hosts: str = "hooks.example.com") -> dict[str, str]:
    return {"default.yaml": POLICY.format(boss=boss, hosts=hosts)}


def assert_no_event_holds(world: World, *texts: str) -> None:
    assert world.recorder.events
    told = repr(world.recorder.events)
    assert [text for text in texts if text in told] == []


# --- a queue


@pytest.fixture(params=["sqlite_url", "postgres_url"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that is empty."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def reviewers(url: str) -> Iterator[ReviewQueue]:
    """The queue as reviewers see it, with connections of its own."""
    queue = ReviewQueue(url)
    yield queue
    queue.close()


@pytest.fixture
def site(tmp_path: Path, url: str) -> Iterator[Callable[..., World]]:
    """Makes guards that ask the queue, each as if its process had just begun; the policies are the same."""
    made: list[World] = []

    def make(boss: str = "kind: queue", **changes: Any) -> World:
        made.append(World(tmp_path, policy(boss), **{"queue": url} | changes))
        return made[-1]

    yield make
    for world in made:
        world.guard.close()


def only(queue: ReviewQueue) -> Item:
    [item] = queue.pending()
    return item


def allow(by: str = "ann") -> Reply:
    return Reply(answer="allow", by=by, reason="fine")


SHAPES: dict[str, Callable[[GuardRunnable, ScriptedChatModel], Runnable[Any, Any]]] = {
    "between": lambda guard, model: guard | model | guard,
    "around": lambda guard, model: guard.protect(model),
}
QUESTION = [HumanMessage("Where is the poison of xyzzy?")]


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "batch", "atransform"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_chain_that_has_to_ask_twice_is_retried_until_it_is_through(
    site: Callable[..., World], reviewers: ReviewQueue, shape: str, how: str
):
    world, model = site(), ScriptedChatModel(answer="The poison of plugh is here.")
    chain = SHAPES[shape](GuardRunnable(world.guard), model)
    for stage, text in (("input", QUESTION[0].text), ("output", model.answer)):
        for _ in range(2):
            with pytest.raises(EscalationPending) as pending:
                run(chain, QUESTION, how)
            item = only(reviewers)
            assert (item.ticket, item.stage, item.text, item.section) == (pending.value.ticket, stage, text, "boss")
            assert pending.value.verdict.action == "escalate"
        # Nothing reached the model before the question was allowed.
        assert len(model.calls) == (0 if stage == "input" else 2)
        reviewers.decide(item.ticket, allow())
    for _ in range(2):
        assert run(chain, QUESTION, how).text == model.answer
    assert reviewers.pending() == []
    results = [event.result for event in world.told(EffectEvent)]
    assert results == ["pending"] * 2 + ["passed", "pending"] * 2 + ["passed"] * 4
    answers = world.told(EscalationResolved)
    assert {(event.resolution, event.follows, event.by, event.failure) for event in answers} == {
        ("allow", "allow", "ann", None)
    }
    assert len(answers) == 6
    assert {event.key for event in answers if event.verdict.stage == "input"} == {answers[0].key}
    assert_no_event_holds(world, "xyzzy", "plugh", "fine")


@BOTH
def test_who_decides_no_is_obeyed_each_time(site: Callable[..., World], reviewers: ReviewQueue, is_async: bool):
    world = site()
    assert world.apply("poison", is_async=is_async).ticket == only(reviewers).ticket
    reviewers.decide(only(reviewers).ticket, Reply(answer="block", by="ann", reason="no"))
    for _ in range(2):
        outcome = world.apply("poison", is_async=is_async)
        assert (outcome.text, outcome.ticket, outcome.verdict.action) == (None, None, "block")
        assert (outcome.verdict.rule, outcome.verdict.message) == ("ask", "No.")


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
@pytest.mark.parametrize("text", ["porridge", "an attack", "more poison"])
def test_what_a_reviewer_writes_is_judged_like_anything_else(
    site: Callable[..., World], reviewers: ReviewQueue, text: str, how: str
):
    world, model = site(), ScriptedChatModel()
    chain = GuardRunnable(world.guard) | model | GuardRunnable(world.guard)
    with pytest.raises(EscalationPending):
        run(chain, QUESTION, how)
    reviewers.decide(only(reviewers).ticket, Reply(answer="edit", text=text, by="ann"))
    for _ in range(2):
        if text == "porridge":
            assert run(chain, QUESTION, how).text == "Understood."
            assert model.calls[-1][-1].text == "porridge"
        else:
            with pytest.raises(GuardBlocked):
                run(chain, QUESTION, how)
    if text != "porridge":
        assert model.calls == []
    assert reviewers.pending() == []
    [first, *_] = world.told(EscalationResolved)
    assert (first.resolution, first.follows) == ("edit", "edit")
    assert_no_event_holds(world, "porridge", "an attack", "more poison", "xyzzy")


@BOTH
def test_after_a_restart_the_decision_is_found_with_the_same_key_alone(
    site: Callable[..., World], reviewers: ReviewQueue, is_async: bool
):
    before = site()
    ticket = before.apply("poison", is_async=is_async).ticket
    before.guard.close()
    assert site().apply("poison", is_async=is_async).ticket == ticket
    reviewers.decide(ticket, allow())
    assert site().apply("poison", is_async=is_async).text == "poison"
    other = site(key=b"o" * 32).apply("poison", is_async=is_async)
    assert (other.text, other.ticket) == (None, only(reviewers).ticket)
    assert other.ticket != ticket


def test_a_decision_is_for_what_was_asked_and_nothing_like_it(site: Callable[..., World], reviewers: ReviewQueue):
    world = site()
    asked = Step(stage="input", text="poison", context="Be kind.")
    ticket = world.guard.apply(asked, "acme").ticket
    reviewers.decide(ticket, allow())
    assert world.guard.apply(asked, "acme").text == "poison"
    others = [
        (Step(stage="input", text="poison ", context="Be kind."), "acme"),
        (Step(stage="input", text="poison", context="Be kinder."), "acme"),
        (Step(stage="input", text="poison"), "acme"),
        (Step(stage="output", text="poison", context="Be kind."), "acme"),
        (asked, "globex"),
        (asked, None),
    ]
    outcomes = [world.guard.apply(step, tenant) for step, tenant in others]
    assert [outcome.text for outcome in outcomes] == [None] * len(others)
    assert [item.ticket for item in reviewers.pending()] == [outcome.ticket for outcome in outcomes]
    # Another version of the policy is another question.
    changed = site("kind: queue, wait_ms: 1")
    assert changed.guard.apply(asked, "acme").ticket not in {None, ticket}


def test_many_who_ask_the_same_at_once_wait_for_one_decision(site: Callable[..., World], reviewers: ReviewQueue):
    worlds = [site(), site()]
    steps = [Step(stage="input", text="poison")] * 4

    def all_at_once() -> list[tuple[str | None, str | None]]:
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda at: worlds[at % 2].guard.apply_many(steps), range(4))
            return [(outcome.text, outcome.ticket) for outcomes in found for outcome in outcomes]

    found = all_at_once()
    item = only(reviewers)
    assert found == [(None, item.ticket)] * 16
    reviewers.decide(item.ticket, allow())
    assert all_at_once() == [("poison", None)] * 16


@pytest.mark.parametrize(("on_timeout", "is_async"), [("block", False), ("allow", True)])
def test_what_nobody_decides_in_time_is_what_the_policy_says(
    site: Callable[..., World], on_timeout: str, is_async: bool
):
    world = site(f"kind: queue, wait_ms: 9000, expires_s: 1, on_timeout: {on_timeout}")
    began = time.monotonic()
    outcome = world.apply("poison", is_async=is_async)
    assert 0.9 < time.monotonic() - began < 5
    assert outcome.text == ("poison" if on_timeout == "allow" else None)
    assert outcome.ticket is None
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.follows, resolved.failure) == ("timeout", on_timeout, "TimeoutError")


def test_who_comes_back_too_late_is_told_so_and_then_asks_anew(site: Callable[..., World], reviewers: ReviewQueue):
    world = site("kind: queue, expires_s: 1")
    first = world.apply("poison")
    time.sleep(1.05)
    late = world.apply("poison")
    assert (late.text, late.ticket, late.verdict.action) == (None, None, "block")
    anew = world.apply("poison")
    assert (anew.text, anew.ticket) == (None, only(reviewers).ticket)
    assert anew.ticket != first.ticket


@BOTH
def test_a_decision_that_comes_while_the_caller_waits_is_given_at_once(
    site: Callable[..., World], reviewers: ReviewQueue, is_async: bool
):
    def review() -> None:
        while not (items := reviewers.pending()):
            time.sleep(0.02)
        reviewers.decide(items[0].ticket, allow())

    thread = threading.Thread(target=review)
    thread.start()
    assert site("kind: queue, wait_ms: 20000").apply("poison", is_async=is_async).text == "poison"
    thread.join()


@BOTH
@pytest.mark.parametrize("on_error", ["block", "allow"])
def test_a_queue_that_can_not_be_reached_is_a_failure(tmp_path: Path, on_error: str, is_async: bool):
    boss = f"kind: queue, on_error: {on_error}"
    world = World(tmp_path, policy(boss), queue="postgresql+psycopg://ann:plugh@127.0.0.1:1/none")
    outcome = world.apply("poison", is_async=is_async)
    assert outcome.text == ("poison" if on_error == "allow" else None)
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.follows, resolved.failure) == ("error", on_error, "QueueError")
    [effect] = world.told(EffectEvent)
    assert effect.failed == ("boss: QueueError",)
    assert_no_event_holds(world, "plugh")


def test_a_queue_without_a_key_is_refused_when_the_policy_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LEC_GUARD_KEY", raising=False)
    with pytest.raises(PolicyError, match=r"default\.yaml:7:3: .*LEC_GUARD_KEY"):
        World(tmp_path, policy("kind: queue"), key=None)
    monkeypatch.setenv("LEC_GUARD_KEY", "k" * 32)
    World(tmp_path, policy("kind: queue"), key=None)


KILLED = """
import itertools, sys
from pathlib import Path
from tests.test_acting import World
from tests.test_escalations import policy
world = World(Path(sys.argv[1]), policy("kind: queue"), queue=sys.argv[2])
for number in itertools.count():
    print(world.apply(f"poison {number}").ticket, flush=True)
"""


def test_a_process_that_is_killed_loses_nothing_that_it_asked(tmp_path: Path, url: str, reviewers: ReviewQueue):
    asking = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with asking:
        told = [asking.stdout.readline().strip() for _ in range(5)]
        os.kill(asking.pid, signal.SIGKILL)
        told += asking.stdout.read().split()
    assert asking.returncode == -signal.SIGKILL
    items = reviewers.pending(limit=1000)
    assert [item.ticket for item in items][: len(told)] == told
    # Of the one that it was about to be told nobody knows.
    assert len(items) <= len(told) + 1
    for item in items:
        reviewers.decide(item.ticket, allow())
    world = World(tmp_path, policy("kind: queue"), queue=url)
    texts = [f"poison {number}" for number in range(len(told))]
    outcomes = world.guard.apply_many([Step(stage="input", text=text) for text in texts])
    assert [outcome.text for outcome in outcomes] == texts
    world.guard.close()


def test_a_closed_guard_leaves_no_connection(tmp_path: Path, postgres: tuple[str, int], postgres_url: str):
    import psycopg

    world = World(tmp_path, policy("kind: queue"), queue=f"{postgres_url}&application_name=closing")
    with psycopg.connect(postgres[0], autocommit=True) as watcher:

        def connections() -> int:
            rows = watcher.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'closing'")
            return rows.fetchone()[0]

        assert world.apply("poison").ticket is not None
        assert connections() == 1
        asyncio.run(world.guard.aclose())
        ends = time.monotonic() + 5
        while connections() and time.monotonic() < ends:
            time.sleep(0.02)
        assert connections() == 0


# --- a webhook


@pytest.fixture
def service() -> Iterator[Service]:
    with running() as found:
        yield found


@pytest.fixture
def hooked(tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Makes guards that ask the service."""
    monkeypatch.setenv("HOOK_SECRET", SECRET.decode())

    def make(more: str = "", files: dict[str, str] | None = None, host: str = "127.0.0.1") -> World:
        boss = f"kind: webhook, url: 'http://{host}:{service.port}/hook', secret: HOOK_SECRET{more}"
        return World(tmp_path, policy(boss, hosts=f"'{host}:{service.port}'") | (files or {}))

    return make


@BOTH
@pytest.mark.parametrize(
    ("said", "text", "resolution"),
    [
        ({"decision": "allow", "by": "ann"}, "poison", "allow"),
        ({"decision": "block", "by": "ann"}, None, "block"),
        ({"decision": "edit", "text": "porridge", "by": "ann"}, "porridge", "edit"),
        ({"decision": "edit", "text": "an attack", "by": "ann"}, None, "edit"),
        ({"decision": "edit", "text": "more poison", "by": "ann"}, None, "edit"),
    ],
)
def test_a_service_decides_and_what_it_writes_is_judged(
    hooked: Callable[..., World],
    service: Service,
    said: dict[str, str],
    text: str | None,
    resolution: str,
    is_async: bool,
):
    world = hooked()
    service.does(reply(**said))
    outcome = world.apply("poison", is_async=is_async)
    assert outcome.text == text
    [asked] = service.asked
    assert asked.is_signed
    assert (asked.said["text"], asked.said["stage"]) == ("poison", "input")
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.by, resolved.failure) == (resolution, "ann", None)
    assert resolved.key == asked.said["key"]
    assert_no_event_holds(world, "poison", "porridge", "an attack", SECRET.decode())


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "atransform"])
def test_a_service_is_asked_about_input_and_output_of_a_chain(hooked: Callable[..., World], service: Service, how: str):
    world = hooked(host="localhost")
    service.does(reply(), reply(decision="edit", text="I'd rather not say."))
    model = ScriptedChatModel(answer="The poison of plugh is here.")
    chain = GuardRunnable(world.guard) | model | GuardRunnable(world.guard)
    assert run(chain, QUESTION, how).text == "I'd rather not say."
    assert [asked.said["stage"] for asked in service.asked] == ["input", "output"]
    assert [type(event) for event in world.recorder.events] == [VerdictEvent, EscalationResolved, EffectEvent] * 2
    assert [event.result for event in world.told(EffectEvent)] == ["passed", "rewritten"]


def says(body: bytes) -> Behaviour:
    return lambda handler, _: send(handler, 200, body)


LIES: dict[str, Callable[[Service], Behaviour]] = {
    "unsigned": lambda _: says(b'{"decision": "allow"}'),
    "signed with another secret": lambda _: reply(secret=b"x" * 32),
    "of another asking": lambda _: reply(id="0" * 32),
    "about another step": lambda _: reply(key="0" * 32),
    "changed on the way": lambda _: reply(decision="block", tampered=lambda body: body.replace(b"block", b"allow")),
    "of long ago": lambda _: reply(late_s=4000),
    "no decision": lambda _: reply(decision="yes"),
    "a redirect": lambda _: status(302, Location="http://169.254.169.254/latest/meta-data"),
    "a redirect that keeps the method": lambda _: status(307, Location="http://169.254.169.254/latest/meta-data"),
    "ten megabytes": lambda service: floods(service, 10_000_000),
    "a broken connection": lambda _: breaks,
    "an error": lambda _: status(500),
}


@BOTH
@pytest.mark.parametrize("lie", LIES)
def test_a_service_that_is_not_to_be_believed_is_a_failure(
    hooked: Callable[..., World], service: Service, lie: str, is_async: bool
):
    world = hooked(", on_timeout: allow")
    service.does(LIES[lie](service))
    outcome = world.apply("poison", is_async=is_async)
    assert (outcome.text, outcome.verdict.action, outcome.verdict.rule) == (None, "block", "ask")
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.follows) == ("error", "block")
    [effect] = world.told(EffectEvent)
    assert (effect.result, effect.failed) == ("blocked", (f"boss: {resolved.failure}",))
    assert service.sent < 6_000_000
    assert_no_event_holds(world, "poison")


def test_a_failure_is_what_the_policy_says(hooked: Callable[..., World], service: Service):
    service.does(status(302, Location="http://169.254.169.254/"))
    world = hooked(", on_error: allow")
    assert world.apply("poison").text == "poison"
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.follows) == ("error", "allow")
    # What else matched still counts.
    assert world.apply("poison, attack").text is None


@BOTH
@pytest.mark.parametrize("on_timeout", ["block", "allow"])
def test_a_service_that_hangs_is_late(hooked: Callable[..., World], service: Service, on_timeout: str, is_async: bool):
    world = hooked(f", timeout_ms: 200, on_timeout: {on_timeout}")
    service.does(hangs(service))
    began = time.monotonic()
    outcome = world.apply("poison", is_async=is_async)
    assert time.monotonic() - began < 3
    assert outcome.text == ("poison" if on_timeout == "allow" else None)
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.follows, resolved.failure) == ("timeout", on_timeout, "TimeoutError")


@pytest.mark.parametrize("secret", [None, "", "x" * 31])
def test_a_webhook_needs_its_secret_when_the_policy_is_read(
    hooked: Callable[..., World], monkeypatch: pytest.MonkeyPatch, secret: str | None
):
    if secret is None:
        monkeypatch.delenv("HOOK_SECRET")
    else:
        monkeypatch.setenv("HOOK_SECRET", secret)
    with pytest.raises(PolicyError, match=r"default\.yaml:7:3: .*HOOK_SECRET") as refused:
        hooked()
    assert "xxx" not in str(refused.value)


def test_a_webhook_is_where_the_operator_allows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOOK_SECRET", SECRET.decode())
    boss = "kind: webhook, url: '{}', secret: HOOK_SECRET"
    World(tmp_path, policy(boss.format("https://hooks.example.com/a")))
    for url in (
        "https://example.com/a",
        "http://127.0.0.1:80/",
        "http://hooks.example.com/",
        "https://169.254.169.254",
    ):
        with pytest.raises(PolicyError, match=r"default\.yaml:7"):
            World(tmp_path, policy(boss.format(url)))


@BOTH
def test_what_a_floor_says_of_silence_counts_whatever_a_tenant_calls_its_own(
    hooked: Callable[..., World], service: Service, monkeypatch: pytest.MonkeyPatch, is_async: bool
):
    monkeypatch.setenv("TENANT_SECRET", "t" * 32)
    # A reply that is signed with the tenant's secret is none to the floor's question.
    silent, broken, forged = hangs(service), status(500), reply(secret=b"t" * 32)
    for behaviour, resolution, timeout_ms in (
        (silent, "timeout", 200),
        (broken, "error", 5000),
        (forged, "error", 5000),
    ):
        service.does(behaviour)
        section = f"kind: webhook, url: 'http://127.0.0.1:{service.port}/', timeout_ms: {timeout_ms}"
        floor = f"""
            escalations: {{boss: {{{section}, secret: HOOK_SECRET, on_timeout: block, on_error: block}}}}
            rules: [{{name: floor, stages: [input], head: web, threshold: 0.5, action: escalate, escalation: boss}}]
        """
        tenant = f"""
            extends: default
            escalations: {{boss: {{{section}, secret: TENANT_SECRET, on_timeout: allow, on_error: allow}}}}
        """
        world = hooked(files={"floor.yaml": floor, "tenants/t.yaml": tenant})
        assert world.apply("poison", "t", is_async=is_async).text == "poison"
        for text in ("click", "poison click"):
            outcome = world.apply(text, "t", is_async=is_async)
            assert (outcome.text, outcome.verdict.action) == (None, "block")
        own = [event for event in world.told(EscalationResolved) if event.section == "boss"]
        floors = [event for event in world.told(EscalationResolved) if event.section == "floor:boss"]
        assert {event.follows for event in own} == {"allow"}
        assert {(event.resolution, event.follows) for event in floors} == {(resolution, "block")}


# --- a second opinion


OPINION = "kind: second_opinion, question: 'Is it about cats?', model: judge"


@BOTH
@pytest.mark.parametrize(
    ("think", "text", "resolution"),
    [
        (saying("allow"), "poison", "allow"),
        (saying("block"), None, "block"),
        (lambda *_: {"code": "0" * 16, "decision": "allow", "reason": "so"}, None, "error"),
        (lambda *_: {"decision": "allow"}, None, "error"),
        (lambda *_: {}, None, "error"),
    ],
    ids=["allow", "block", "without the code", "half of it", "nonsense"],
)
def test_a_model_decides(tmp_path: Path, think: Any, text: str | None, resolution: str, is_async: bool):
    model = Model(think=think, seen=[])
    world = World(tmp_path, policy(f"{OPINION}, on_timeout: allow"), models={"judge": model})
    assert world.apply("poison", is_async=is_async).text == text
    assert len(model.seen) == 1
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.follows) == (resolution, "allow" if text else "block")
    assert_no_event_holds(world, "poison", "because")


class Silent:
    """A chat model that thinks until it is told to stop."""

    def __init__(self) -> None:
        self.stop = threading.Event()

    def with_structured_output(self, schema: type) -> RunnableLambda:
        async def think(_: Any) -> dict[str, str]:
            await asyncio.sleep(60)
            return {}

        return RunnableLambda(lambda _: self.stop.wait(60) and {}, think)


@BOTH
@pytest.mark.parametrize("on_timeout", ["block", "allow"])
def test_a_model_that_hangs_is_late(tmp_path: Path, on_timeout: str, is_async: bool):
    model = Silent()
    boss = f"{OPINION}, timeout_ms: 200, on_timeout: {on_timeout}"
    world = World(tmp_path, policy(boss), models={"judge": model})
    began = time.monotonic()
    outcome = world.apply("poison", is_async=is_async)
    assert time.monotonic() - began < 3
    model.stop.set()
    assert outcome.text == ("poison" if on_timeout == "allow" else None)
    [resolved] = world.told(EscalationResolved)
    assert (resolved.resolution, resolved.follows) == ("timeout", on_timeout)


@pytest.mark.parametrize("models", [{}, {"jury": Model(think=saying("allow"))}], ids=["none", "another"])
def test_a_model_that_is_not_registered_is_told_when_the_policy_is_read(tmp_path: Path, models: dict[str, Any]):
    with pytest.raises(PolicyError, match=r"default\.yaml:7:3: .*'judge'.*Effects\(models="):
        World(tmp_path, policy(OPINION), models=models)
