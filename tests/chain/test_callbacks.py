"""A guard's events in LangChain's own system: custom events, handlers for them, and traces."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, get_args
from uuid import UUID, uuid4

import pytest
import requests
from langchain_core.callbacks import BaseCallbackHandler, adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers import LangChainTracer
from langsmith import Client

from lec_guard import Event, Guard, GuardBlocked, GuardRunnable, PolicyReloaded, ReloadRefused, Step, VerdictEvent
from lec_guard.chain.base import BatchRunnable, given
from lec_guard.chain.callbacks import (
    EVENT_NAMES,
    AsyncGuardCallbackHandler,
    GuardCallbackHandler,
    adispatch,
    dispatch,
    event_data,
    trace_verdict,
)
from lec_guard.chain.runnable import VERDICT_EVENT
from lec_guard.step import ACTIONS, STAGES, Verdict
from tests.conftest import write_policies
from tests.observe.made import EVENTS, HOSTILE, failed, judged

METHODS = [
    *(f"on_guard_{stage}" for stage in STAGES),
    *(f"on_guard_{action}" for action in ACTIONS),
    *(f"on_guard_{name.removeprefix('lec_guard.')}" for name in EVENT_NAMES.values() if name != VERDICT_EVENT),
]
Told = tuple[str, dict[str, Any], dict[str, Any]]


class Heard(GuardCallbackHandler):
    """Writes down which methods were called, and with what."""

    def __init__(self) -> None:
        self.told: list[Told] = []


class AsyncHeard(AsyncGuardCallbackHandler):
    def __init__(self) -> None:
        self.told: list[Told] = []


def _hear(name: str) -> Callable[..., None]:
    def method(self: Heard, told: dict[str, Any], **keywords: Any) -> None:
        self.told.append((name, told, keywords))

    return method


def _ahear(name: str) -> Callable[..., Any]:
    async def method(self: AsyncHeard, told: dict[str, Any], **keywords: Any) -> None:
        self.told.append((name, told, keywords))

    return method


for one in METHODS:
    setattr(Heard, one, _hear(one))
    is_plain = one in ("on_guard_policy_reloaded", "on_guard_reload_refused")
    setattr(AsyncHeard, one, _hear(one) if is_plain else _ahear(one))


def _names(handler: Heard | AsyncHeard) -> list[str]:
    return [name for name, _, _ in handler.told]


class Tells(BatchRunnable):
    """Runs that tell of events, as a guard's do: a value is what happened."""

    def _batch(self, values: list[Any], run_manager: list[Any], config: list[RunnableConfig], **kwargs: Any) -> Any:
        for events, own in zip(values, config, strict=True):
            dispatch(events, own)
        return [self._traced(*each) for each in zip(values, config, strict=True)]

    async def _abatch(
        self, values: list[Any], run_manager: list[Any], config: list[RunnableConfig], **kwargs: Any
    ) -> Any:
        for events, own in zip(values, config, strict=True):
            await adispatch(events, own)
        return [self._traced(*each) for each in zip(values, config, strict=True)]

    def _transform(
        self, chunks: Iterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[Any]:
        for chunk in chunks:
            yield given(self._batch([chunk], [run_manager], [config])[0])

    async def _atransform(
        self, chunks: AsyncIterator[Any], run_manager: Any, config: RunnableConfig, **kwargs: Any
    ) -> AsyncIterator[Any]:
        async for chunk in chunks:
            yield given((await self._abatch([chunk], [run_manager], [config]))[0])

    @staticmethod
    def _traced(events: list[Event], config: RunnableConfig) -> str | GuardBlocked:
        verdicts = [event.verdict for event in events if isinstance(event, VerdictEvent)]
        trace_verdict(verdicts, config)
        return next((GuardBlocked(one) for one in verdicts if one.blocked), "told")


# --- what is sent


def test_every_kind_of_event_has_a_name_of_its_own():
    assert set(EVENT_NAMES) == set(get_args(Event))
    assert EVENT_NAMES[VerdictEvent] == VERDICT_EVENT == "lec_guard.verdict"
    assert list(EVENT_NAMES.values()) == [
        f"lec_guard.{kind}"
        for kind in (
            "verdict",
            "error",
            "bypass",
            "effect",
            "escalation_resolved",
            "policy_reloaded",
            "reload_refused",
        )
    ]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_is_sent_whole_as_plain_data(event):
    data = event_data(event)
    json.dumps(data, allow_nan=False)
    if isinstance(event, VerdictEvent):
        assert data == event.verdict.to_dict()
        return
    # All that the event holds but a detector's own words.
    assert set(data) == set(event.__slots__) - ({"reason"} if isinstance(event, type(failed())) else set())
    for name, value in data.items():
        own = getattr(event, name)
        assert value == (own.to_dict() if isinstance(own, Verdict) else list(own) if isinstance(own, tuple) else own)


def test_what_a_detector_said_is_not_sent():
    assert "xyzzy" not in json.dumps(event_data(failed("could not read 'xyzzy'")))


async def test_events_go_to_the_run_that_they_belong_to():
    class Runs(BaseCallbackHandler):
        def __init__(self) -> None:
            self.started: list[UUID] = []
            self.told: list[tuple[str, Any, UUID]] = []

        def on_chain_start(self, *args: Any, run_id: UUID, **kwargs: Any) -> None:
            self.started.append(run_id)

        def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **kwargs: Any) -> None:
            self.told.append((name, data, run_id))

    events = [event for event in EVENTS if not isinstance(event, VerdictEvent)]
    sync, asynchronous = Runs(), Runs()
    (RunnableLambda(list) | Tells()).invoke(events, {"callbacks": [sync]})
    await (RunnableLambda(list) | Tells()).ainvoke(events, {"callbacks": [asynchronous]})
    for runs in (sync, asynchronous):
        assert runs.told == [(EVENT_NAMES[type(event)], event_data(event), runs.started[2]) for event in events]


async def test_where_nobody_hears_nothing_is_made(monkeypatch):
    monkeypatch.setattr("lec_guard.chain.callbacks.event_data", lambda event: pytest.fail("made for nobody"))
    events = [VerdictEvent(verdict=judged(action="allow"))]
    assert Tells().invoke(events) == "told"
    assert await Tells().ainvoke(events) == "told"


async def test_a_config_of_no_run_is_an_error():
    with pytest.raises(RuntimeError, match="parent run id"):
        dispatch(EVENTS[:1], {"callbacks": [Heard()]})
    with pytest.raises(RuntimeError, match="parent run id"):
        await adispatch(EVENTS[:1], {"callbacks": [Heard()]})


# --- handlers


@pytest.mark.parametrize("handler", [Heard, AsyncHeard])
@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
async def test_each_event_calls_its_method(handler, way):
    events = [event for event in EVENTS if not isinstance(event, VerdictEvent)]
    hears = handler()
    config = {"callbacks": [hears], "run_id": uuid4(), "tags": ["ours"], "metadata": {"who": "me"}}
    if way == "invoke":
        Tells().invoke(events, config)
    else:
        await Tells().ainvoke(events, config)
    assert [(name, told) for name, told, _ in hears.told] == [
        (EVENT_NAMES[type(event)].replace("lec_guard.", "on_guard_"), event_data(event)) for event in events
    ]
    for _, _, keywords in hears.told:
        assert keywords["run_id"] == config["run_id"]
        assert keywords["tags"] == ["ours"]
        assert keywords["metadata"]["who"] == "me"


@pytest.mark.parametrize("handler", [Heard, AsyncHeard])
async def test_a_verdict_calls_the_method_of_its_stage_then_that_of_its_action(handler):
    hears = handler()
    for stage in STAGES:
        for action in ACTIONS[:-1]:
            await Tells().ainvoke([VerdictEvent(verdict=judged(stage=stage, action=action))], {"callbacks": [hears]})
    expected = [f"on_guard_{one}" for stage in STAGES for action in ACTIONS[:-1] for one in (stage, action)]
    assert _names(hears) == expected
    assert hears.told[0][1] == judged(stage=STAGES[0], action=ACTIONS[0]).to_dict()


@pytest.mark.parametrize("handler", [Heard, AsyncHeard])
async def test_a_real_guard_tells_of_a_block_in_each_way(handler, guard):
    ways: list[Callable[[Any], Any]] = [
        lambda config: guard.input.invoke("an ATTACK", config),
        lambda config: guard.input.batch(["an ATTACK"], config),
        lambda config: list(guard.input.transform(iter(["an ATTACK"]), config)),
    ]
    for way in ways:
        hears = handler()
        with pytest.raises(GuardBlocked):
            way({"callbacks": [hears]})
        assert _names(hears) == ["on_guard_input", "on_guard_block"]
        assert "ATTACK" not in str(hears.told)
    hears = handler()
    with pytest.raises(GuardBlocked):
        await guard.input.ainvoke("an ATTACK", {"callbacks": [hears]})
    assert _names(hears) == ["on_guard_input", "on_guard_block"]


async def test_a_handler_that_overrides_nothing_does_nothing(guard):
    config: RunnableConfig = {"callbacks": [GuardCallbackHandler(), AsyncGuardCallbackHandler()]}
    assert guard.invoke("hi", config) == "hi"
    assert await guard.ainvoke("hi", config) == "hi"
    await Tells().ainvoke(EVENTS[1:], config)


def test_whoever_overrides_the_verdict_hears_all_of_them_and_decides_who_else_does(guard):
    class Own(Heard):
        def on_guard_verdict(self, verdict: dict[str, Any], *, run_id: UUID, **kwargs: Any) -> None:
            self.told.append(("own", verdict, kwargs))
            if verdict["action"] == "flag":
                super().on_guard_verdict(verdict, run_id=run_id, **kwargs)

    hears = Own()
    guard.input.batch(["hi", "darn"], {"callbacks": [hears]})
    assert _names(hears) == ["own", "own", "on_guard_input", "on_guard_flag"]


FOREIGN = [
    ("another.verdict", judged().to_dict()),
    ("lec_guard.unknown", judged().to_dict()),
    ("lec_guard.verdict", "no dict"),
    ("lec_guard.verdict", {}),
    ("lec_guard.verdict", {"stage": "verdict", "action": "custom_event"}),
    ("lec_guard.verdict", {"stage": ["input"], "action": None}),
    ("lec_guard.error", None),
]


@pytest.mark.parametrize("handler", [Heard, AsyncHeard])
@pytest.mark.parametrize(("name", "data"), FOREIGN)
async def test_what_others_send_calls_nothing_of_ours(handler, name, data, caplog):
    hears = handler()

    async def asend(value: str, config: RunnableConfig) -> str:
        await adispatch_custom_event(name, data, config=config)
        return value

    def send(value: str, config: RunnableConfig) -> str:
        dispatch_custom_event(name, data, config=config)
        return value

    sends = RunnableLambda(send, afunc=asend)
    assert sends.invoke("hi", {"callbacks": [hears]}) == "hi"
    assert await sends.ainvoke("hi", {"callbacks": [hears]}) == "hi"
    assert hears.told == []
    assert caplog.records == []


def test_a_method_that_raises_stops_a_run_only_where_asked(guard, caplog):
    class Breaks(GuardCallbackHandler):
        def on_guard_allow(self, verdict: dict[str, Any], **kwargs: Any) -> None:
            raise OSError("full")

    breaks, hears = Breaks(), Heard()
    assert guard.input.invoke("hi", {"callbacks": [breaks, hears]}) == "hi"
    assert _names(hears) == ["on_guard_input", "on_guard_allow"]
    breaks.raise_error = True
    with pytest.raises(OSError, match="full"):
        guard.input.invoke("hi", {"callbacks": [breaks]})


@pytest.mark.parametrize("handler", [Heard, AsyncHeard])
def test_as_a_sink_it_hears_of_policies_and_of_nothing_else(handler, tmp_path, keywords):
    hears = handler()
    file = tmp_path / "policies" / "default.yaml"
    rule = "rules: [{name: injection, stages: [input], head: injection, threshold: 0.5, action: %s}]\n"
    folder = write_policies(tmp_path / "policies", {"default.yaml": rule % "flag"})
    guard = Guard.from_policies(folder, detector=keywords, sinks=[hears])
    guard.check(_step("an ATTACK"))
    assert hears.told == []
    file.write_text(rule % "block")
    guard.reload()
    file.write_text(rule % "explode")
    guard.reload()
    guard.close()
    assert _names(hears) == ["on_guard_policy_reloaded", "on_guard_reload_refused"]
    (_, reloaded, _), (_, refused, _) = hears.told
    assert (reloaded["policy"], refused["version"]) == ("default", reloaded["version"])
    assert reloaded["version"] != reloaded["before"]
    assert "rules.0.action" in refused["reason"]


@pytest.mark.parametrize("handler", [Heard, AsyncHeard])
@pytest.mark.parametrize("event", EVENTS)
def test_each_event_reaches_a_handler_on_one_way_only(handler, event):
    hears = handler()
    hears.emit(event)
    assert len(hears.told) == isinstance(event, PolicyReloaded | ReloadRefused)


def _step(text: str) -> Step:
    return Step(stage="input", text=text)


# --- traces


class Session(requests.Session):
    """Takes what a LangSmith client sends, and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []

    def request(self, method: str, url: str, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        if method in ("POST", "PATCH"):
            self.sent.append(json.loads(kwargs["data"]))
        response = requests.Response()
        response.status_code, response._content = 200, b"{}"
        return response


class Traced:
    """A real tracer with a real client."""

    def __init__(self) -> None:
        self.session = Session()
        self.client = Client(
            api_url="http://127.0.0.1:9", api_key="none", session=self.session, auto_batch_tracing=False, info={}
        )
        self.tracer = LangChainTracer(client=self.client, project_name="test")

    def config(self, **more: Any) -> RunnableConfig:
        return {"callbacks": [self.tracer], **more}

    def runs(self) -> dict[str, dict[str, Any]]:
        """Each run's metadata as it was sent last, by id, in the order in which the runs began."""
        self.client.flush()
        return {one["id"]: one["extra"]["metadata"] for one in self.session.sent}

    def told(self) -> list[Any]:
        return [metadata.get("lec_guard") for metadata in self.runs().values()]


@pytest.fixture
def traced():
    found = Traced()
    yield found
    found.session.close()


def _of(*verdicts: Verdict) -> list[Event]:
    return [VerdictEvent(verdict=verdict) for verdict in verdicts]


ALLOWED = judged(action="allow", rule=None)
FLAGGED = judged(action="flag", rule="curse")
EXPECTED = {
    "action": "allow",
    "rule": None,
    "cause": None,
    "stage": "input",
    "tenant": "acme",
    "policy": "acme",
    "policy_version": "0123456789abcdef",
    "detector_id": "d",
    "steps": 1,
}


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "batch", "abatch", "stream", "astream"])
async def test_a_traced_run_says_what_was_decided(traced, way):
    events, config = _of(ALLOWED, FLAGGED), traced.config()
    tells = Tells()
    if way == "invoke":
        tells.invoke(events, config)
    elif way == "ainvoke":
        await tells.ainvoke(events, config)
    elif way == "batch":
        tells.batch([events], config)
    elif way == "abatch":
        await tells.abatch([events], config)
    elif way == "stream":
        list(tells.transform(iter([events]), config))
    else:
        assert [chunk async for chunk in tells.atransform(_achunks([events]), config)] == ["told"]
    assert traced.told() == [EXPECTED | {"action": "flag", "rule": "curse", "steps": 2}]


async def _achunks(chunks: Sequence[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


async def test_a_block_is_in_the_trace(traced):
    for is_async in (False, True):
        with pytest.raises(GuardBlocked):
            if is_async:
                await Tells().ainvoke(_of(judged()), traced.config())
            else:
                Tells().invoke(_of(judged()), traced.config())
    assert [told["action"] for told in traced.told()] == ["block", "block"]


async def test_only_the_guards_own_run_says_it(traced):
    chain = RunnableLambda(list).with_config(run_name="before") | Tells() | RunnableLambda(str)
    metadata = {"who": "me"}
    chain.invoke(_of(FLAGGED), traced.config(metadata=metadata))
    runs = list(traced.runs().values())
    assert ["lec_guard" in run for run in runs] == [False, False, True, False]
    assert all(run["who"] == "me" for run in runs)
    assert metadata == {"who": "me"}


async def test_each_run_of_a_batch_says_its_own(traced):
    values = [_of(ALLOWED), _of(FLAGGED), []]
    Tells().batch(values, traced.config(metadata={"who": "me"}))
    await Tells().abatch(values, traced.config(metadata={"who": "me"}))
    actions = [told and told["action"] for told in traced.told()]
    assert actions == ["allow", "flag", None] * 2


def test_each_of_two_tracers_says_it_once(traced):
    other = Traced()
    # LangChain hands one dict of metadata to all handlers of a run.
    Tells().invoke(_of(FLAGGED), {"callbacks": [traced.tracer, other.tracer], "metadata": {"who": "me"}})
    assert traced.told() == other.told() == [EXPECTED | {"action": "flag", "rule": "curse"}]
    other.session.close()


def test_told_again_it_counts_on_and_keeps_the_severest(traced):
    list(Tells().transform(iter([_of(ALLOWED), _of(FLAGGED, ALLOWED), _of(ALLOWED)]), traced.config()))
    assert traced.told() == [EXPECTED | {"action": "flag", "rule": "curse", "steps": 4}]


def test_what_a_callers_metadata_says_does_not_count(traced):
    forged = {"lec_guard": EXPECTED | {"action": "block", "rule": "forged", "steps": 99}}
    Tells().invoke(_of(ALLOWED), traced.config(metadata=forged))
    assert traced.told() == [EXPECTED]


def test_no_text_is_in_the_trace_and_any_name_can_be_sent(traced):
    Tells().invoke(_of(judged(action="flag", tenant=HOSTILE, rule=HOSTILE, message="No, xyzzy.")), traced.config())
    (told,) = traced.told()
    assert "xyzzy" not in str(told)
    assert "\\ud800" in told["rule"]


def test_without_a_tracer_nothing_happens(caplog):
    assert Tells().invoke(_of(ALLOWED), {"callbacks": [Heard()]}) == "told"
    trace_verdict([ALLOWED], {})
    trace_verdict([ALLOWED], {"callbacks": [Heard()]})
    assert caplog.records == []


def test_a_tracer_that_fails_fails_nothing_else(traced, caplog):
    class Breaks(LangChainTracer):
        is_broken = False

        def on_custom_event(self, *args: Any, **kwargs: Any) -> Any:
            self.run_map = SimpleNamespace(get=lambda key: 1 / 0)

        def on_chain_end(self, *args: Any, **kwargs: Any) -> Any:
            return None

    breaks = Breaks(client=traced.client)
    with caplog.at_level(logging.WARNING):
        assert Tells().invoke(_of(judged(action="flag", message="xyzzy")), {"callbacks": [breaks]}) == "told"
    assert [one.getMessage() for one in caplog.records] == [
        "a verdict could not be written into the trace of its run: ZeroDivisionError"
    ]


def test_the_runnable_sends_what_this_sends(guard: GuardRunnable):
    hears = Heard()
    guard.input.invoke("hi", {"callbacks": [hears]})
    verdict = guard.guard.check(_step("hi"))
    assert hears.told[0][1] | {"ms": 0} == event_data(VerdictEvent(verdict=verdict)) | {"ms": 0}
