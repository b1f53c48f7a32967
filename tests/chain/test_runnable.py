from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableGenerator, RunnableLambda, RunnableParallel

from lec_guard import (
    GuardBlocked,
    GuardRunnable,
    PolicyError,
    TenantMismatch,
    UnsupportedValueError,
    VerdictEvent,
)
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.chain.values import ATTACK, CLEAN, KINDS, OUTPUTS, Kind
from tests.conftest import write_policies


async def _agen(chunks: list[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


async def _collect(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


async def _now(value: Any) -> Any:
    return value


METHODS: dict[str, Callable[[GuardRunnable, Any], Awaitable[Any]]] = {
    "invoke": lambda guard, value: _now(guard.invoke(value)),
    "ainvoke": lambda guard, value: guard.ainvoke(value),
    "batch": lambda guard, value: _now(guard.batch([value])[0]),
    "abatch": lambda guard, value: _first(guard.abatch([value])),
    "stream": lambda guard, value: _now(list(guard.stream(value))[0]),
    "astream": lambda guard, value: _first(_collect(guard.astream(value))),
    "transform": lambda guard, value: _now(list(guard.transform(iter([value])))[0]),
    "atransform": lambda guard, value: _first(_collect(guard.atransform(_agen([value])))),
}


async def _first(values: Awaitable[list[Any]]) -> Any:
    return (await values)[0]


class Sink:
    def __init__(self) -> None:
        self.events: list[VerdictEvent] = []

    def emit(self, event: VerdictEvent) -> None:
        self.events.append(event)


@pytest.mark.parametrize("text", [CLEAN, ATTACK, "some POISON", "darn"])
@pytest.mark.parametrize("kind", [*KINDS, *OUTPUTS], ids=str)
async def test_every_method_gives_the_same_verdicts(kind: Kind, text: str, policies: Any, keywords: Any) -> None:
    value = kind.make(text)
    seen = {}
    for name, method in METHODS.items():
        sink = Sink()
        guard = GuardRunnable.from_policies(policies, detector=keywords, sinks=[sink])
        try:
            out = await method(guard, value)
            assert out is value
            result = "passed"
        except GuardBlocked as blocked:
            result = str(blocked)
        verdicts = [event.verdict.to_dict() | {"ms": 0} for event in sink.events]
        seen[name] = (result, verdicts)
    assert len(seen) == len(METHODS)
    assert all(one == seen["invoke"] for one in seen.values())
    assert seen["invoke"][1], "nothing was judged"
    if text == ATTACK and kind in KINDS:
        assert seen["invoke"][0] != "passed"


@pytest.mark.parametrize("name", METHODS)
async def test_every_method_refuses_what_it_cannot_read(guard: GuardRunnable, name: str) -> None:
    with pytest.raises(UnsupportedValueError):
        await METHODS[name](guard, {"blob": b"x"})


async def test_the_same_guard_stands_on_both_sides(guard: GuardRunnable) -> None:
    llm = ScriptedChatModel(script={"evil": "some POISON"}, answer="fine")
    chain = guard | llm | guard
    assert chain.invoke("hi").content == "fine"
    assert (await chain.ainvoke("hi")).content == "fine"
    with pytest.raises(GuardBlocked) as blocked:
        chain.invoke("an evil request")
    assert blocked.value.verdict.stage == "output"
    assert len(llm.calls) == 3
    with pytest.raises(GuardBlocked) as blocked:
        await chain.ainvoke(ATTACK)
    assert blocked.value.verdict.stage == "input"
    assert len(llm.calls) == 3, "the model was called on a blocked request"


def test_a_pipe_does_not_change_the_guard(guard: GuardRunnable) -> None:
    before = (guard.guard, guard.stage, guard.tenant)
    assert (guard | RunnableLambda(str)) is not guard
    assert (RunnableLambda(str) | guard) is not guard
    assert (guard.guard, guard.stage, guard.tenant) == before
    with pytest.raises(AttributeError):
        guard.stage = "input"  # type: ignore[misc]


def test_a_parsed_answer_is_judged(guard: GuardRunnable) -> None:
    prompt = ChatPromptTemplate.from_messages([("system", "be nice"), ("human", "{question}")])
    llm = ScriptedChatModel(answer='{"reply": "POISON"}')
    with pytest.raises(GuardBlocked):
        (guard | prompt | guard | llm | StrOutputParser() | guard).invoke({"question": "hi"})
    with pytest.raises(GuardBlocked):
        (prompt | llm | JsonOutputParser() | guard).invoke({"question": "hi"})


def test_batch_calls_the_detector_once_and_keeps_order(policies: Any) -> None:
    calls = []

    class Counting(KeywordDetector):
        def score(self, steps: Any, *, keys: Any = None) -> Any:
            calls.append(len(steps))
            return super().score(steps, keys=keys)

    detector = Counting({"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}})
    guard = GuardRunnable.from_policies(policies, detector=detector).input
    values = [f"text {i}" if i % 3 else f"attack {i}" for i in range(30)]
    results = guard.batch(values, return_exceptions=True)
    assert calls == [30]
    for value, result in zip(values, results, strict=True):
        assert isinstance(result, GuardBlocked) if value.startswith("attack") else result is value
    with pytest.raises(GuardBlocked):
        guard.batch(values)


def test_a_bad_value_in_a_batch_costs_only_itself(guard: GuardRunnable) -> None:
    results = guard.batch(["a", b"b", "c"], [{}, {}, {"configurable": {"tenant": "nobody"}}], return_exceptions=True)
    assert results[0] == "a"
    assert isinstance(results[1], UnsupportedValueError)
    assert isinstance(results[2], PolicyError)


@pytest.mark.parametrize("keyword", ["tenant", "stage"])
def test_a_tenant_or_stage_in_the_wrong_place_is_told(guard: GuardRunnable, keyword: str) -> None:
    for run in (guard.invoke, guard.bind(**{keyword: "acme"}).invoke):
        with pytest.raises(TypeError, match=keyword):
            run("hi", **({keyword: "acme"} if run == guard.invoke else {}))
    with pytest.raises(TypeError, match=keyword):
        list(guard.transform(iter(["hi"]), **{keyword: "acme"}))


def test_a_parallel_stream_is_judged_as_a_whole(guard: GuardRunnable) -> None:
    words = ScriptedChatModel(answer="some AT TA CK now") | StrOutputParser() | RunnableLambda(lambda t: t)
    data = ScriptedChatModel(answer='{"x": "long text", "y": [1]}') | JsonOutputParser()
    chain = RunnableParallel(answer=words, data=data) | guard

    def spell(_: Iterator[Any]) -> Iterator[Any]:
        yield from [{"answer": "AT"}, {"data": {"x": 1}}, {"answer": "TACK"}]

    spelled = RunnableGenerator(spell)
    assert list(chain.stream("hi"))
    with pytest.raises(GuardBlocked):
        list((spelled | guard).stream("hi"))


def test_a_growing_answer_is_judged_once(guard: GuardRunnable, keywords: KeywordDetector) -> None:
    text = " ".join(f"word{i}" for i in range(100))
    chain = ScriptedChatModel(answer=f'{{"a": "{text}"}}') | JsonOutputParser() | guard.output
    assert len(list(chain.stream("hi"))) > 50
    assert len(keywords.seen) == 1


def test_a_callers_keywords_do_no_harm(guard: GuardRunnable) -> None:
    assert (guard | ScriptedChatModel(answer="fine")).invoke("hi", stop=["."]).content == "fine"
    assert list(guard.transform(iter(["hi"]), stop=["."])) == ["hi"]


# --- streams


def test_a_blocked_stream_leaks_nothing(guard: GuardRunnable) -> None:
    chain = guard | ScriptedChatModel(answer="this is long and then there is POISON in it at the end") | guard
    got = []
    with pytest.raises(GuardBlocked):
        for chunk in chain.stream("hi"):
            got.append(chunk)
    assert got == []


async def test_a_blocked_async_stream_leaks_nothing(guard: GuardRunnable) -> None:
    chain = guard | ScriptedChatModel(answer="this is long and then there is POISON in it") | guard
    got = []
    with pytest.raises(GuardBlocked):
        async for chunk in chain.astream("hi"):
            got.append(chunk)
    assert got == []


def test_an_attack_split_over_chunks_is_read_in_one_piece(guard: GuardRunnable) -> None:
    with pytest.raises(GuardBlocked):
        list(guard.transform(iter(["an AT", "TA", "CK here"])))
    chunks = [AIMessageChunk(content="some POI"), AIMessageChunk(content="SON")]
    with pytest.raises(GuardBlocked):
        list(guard.transform(iter(chunks)))


def test_chunks_pass_as_they_came(guard: GuardRunnable) -> None:
    chunks = [AIMessageChunk(content="a "), AIMessageChunk(content="b", response_metadata={"m": 1})]
    out = list(guard.transform(iter(chunks)))
    assert [a is b for a, b in zip(out, chunks, strict=True)] == [True, True]
    assert list(guard.transform(iter([]))) == []


def test_nothing_is_pulled_from_upstream_after_a_block(guard: GuardRunnable) -> None:
    pulled = []

    def endless(_: Iterator[Any]) -> Iterator[str]:
        for i in range(1000):
            pulled.append(i)
            yield f"{i} "

    with pytest.raises(GuardBlocked):
        list((guard | RunnableGenerator(endless)).stream(ATTACK))
    assert pulled == [], "what stands behind a block has run"


def test_a_stream_that_breaks_is_an_error_and_releases_nothing(guard: GuardRunnable) -> None:
    def breaks() -> Iterator[str]:
        yield "a"
        raise ConnectionError("upstream")

    got = []
    with pytest.raises(ConnectionError):
        for chunk in guard.transform(breaks()):
            got.append(chunk)
    assert got == []


def test_closing_a_released_stream_ends_it(guard: GuardRunnable) -> None:
    pulled = []

    def upstream() -> Iterator[str]:
        for i in range(5):
            pulled.append(i)
            yield f"{i} "

    stream = guard.transform(upstream())
    assert next(stream) == "0 "
    stream.close()  # type: ignore[attr-defined]
    assert pulled == [0, 1, 2, 3, 4]


# --- tenants and views


def test_the_tenant_comes_from_the_config(guard: GuardRunnable) -> None:
    with pytest.raises(GuardBlocked) as blocked:
        guard.invoke(ATTACK, {"configurable": {"tenant": "acme"}})
    assert (blocked.value.verdict.tenant, blocked.value.verdict.message) == ("acme", "Acme says no.")
    assert guard.input.invoke(ATTACK, {"configurable": {"tenant": "globex"}}) == ATTACK
    with pytest.raises(GuardBlocked) as blocked:
        guard.invoke(ATTACK)
    assert (blocked.value.verdict.tenant, blocked.value.verdict.message) == (None, "No.")


def test_the_tenant_reaches_both_guards_of_a_chain(guard: GuardRunnable) -> None:
    chain = guard | ScriptedChatModel(answer="POISON") | guard
    with pytest.raises(GuardBlocked) as blocked:
        chain.invoke("hi", {"configurable": {"tenant": "acme"}})
    assert (blocked.value.verdict.tenant, blocked.value.verdict.stage) == ("acme", "output")
    assert "tenant" in [spec.id for spec in chain.config_specs]


def test_a_view_is_bound_to_its_tenant(guard: GuardRunnable) -> None:
    view = guard.for_tenant("acme")
    assert guard.tenant is None
    assert view.invoke("hi", {"configurable": {"tenant": "acme"}}) == "hi"
    with pytest.raises(TenantMismatch, match=r"acme.*globex"):
        view.invoke("hi", {"configurable": {"tenant": "globex"}})
    with pytest.raises(TenantMismatch):
        view.for_tenant("globex")
    with pytest.raises(PolicyError, match="unknown tenant"):
        guard.for_tenant("nobody")


@pytest.mark.parametrize("tenant", ["nobody", "../acme", "acme\n", "", 7, ["acme"]])
def test_a_tenant_that_is_none_of_ours_is_an_error(guard: GuardRunnable, tenant: object) -> None:
    with pytest.raises(PolicyError):
        guard.invoke("hi", {"configurable": {"tenant": tenant}})


def test_the_key_of_the_tenant_can_be_set(policies: Any, keywords: Any) -> None:
    guard = GuardRunnable.from_policies(policies, detector=keywords, tenant_key="customer")
    with pytest.raises(GuardBlocked) as blocked:
        guard.invoke(ATTACK, {"configurable": {"customer": "acme", "tenant": "globex"}})
    assert blocked.value.verdict.tenant == "acme"


def test_a_resolver_knows_the_tenant_of_a_run(policies: Any, keywords: Any) -> None:
    tokens = {"secret-a": "acme", "secret-g": "globex"}
    guard = GuardRunnable.from_policies(
        policies, detector=keywords, resolver=lambda config: tokens.get(config.get("metadata", {}).get("token", ""))
    ).input
    with pytest.raises(GuardBlocked) as blocked:
        guard.invoke(ATTACK, {"metadata": {"token": "secret-a"}})
    assert blocked.value.verdict.tenant == "acme"
    assert guard.invoke(ATTACK, {"metadata": {"token": "secret-g"}}) == ATTACK
    with pytest.raises(GuardBlocked) as blocked:
        guard.invoke(ATTACK)
    assert blocked.value.verdict.tenant is None


SOURCES = [
    (None, None, None, None),
    ("acme", None, None, "acme"),
    (None, "acme", None, "acme"),
    (None, None, "acme", "acme"),
    ("acme", "acme", "acme", "acme"),
    ("acme", "globex", None, TenantMismatch),
    ("acme", None, "globex", TenantMismatch),
    (None, "acme", "globex", TenantMismatch),
    ("acme", "acme", "globex", TenantMismatch),
    ("acme", "globex", "acme", TenantMismatch),
]


@pytest.mark.parametrize(("bound", "named", "found", "expected"), SOURCES)
@pytest.mark.parametrize("name", METHODS)
async def test_all_who_name_a_tenant_must_name_the_same(
    policies: Any, keywords: Any, name: str, bound: Any, named: Any, found: Any, expected: Any
) -> None:
    guard = GuardRunnable.from_policies(policies, detector=keywords, resolver=lambda _: found).input
    view = guard if bound is None else guard.for_tenant(bound)
    config: Any = {} if named is None else {"configurable": {"tenant": named}}
    if expected is TenantMismatch:
        with pytest.raises(TenantMismatch, match=r"acme.*globex|globex.*acme"):
            await METHODS[name](view.with_config(config), "hi")  # type: ignore[arg-type]
        assert keywords.seen == []
    else:
        assert await METHODS[name](view.with_config(config), "hi") == "hi"  # type: ignore[arg-type]
        assert view.tenant_of(config) == expected


LANGUAGES = """
    extends: default
    locale: de
    message: {en: No., de: Nein., pt-BR: Não.}
"""


@pytest.mark.parametrize(
    ("locale", "told"),
    [(None, "Nein."), ("en", "No."), ("en-GB", "No."), ("pt", "Não."), ("fr", "Nein."), (7, "Nein.")],
)
@pytest.mark.parametrize("name", METHODS)
async def test_a_refusal_is_told_in_the_language_of_the_run(
    policies: Any, keywords: Any, name: str, locale: Any, told: str
) -> None:
    write_policies(policies, {"tenants/polyglot.yaml": LANGUAGES})
    guard = GuardRunnable.from_policies(policies, detector=keywords)
    recorder = Recorder()
    config: Any = {"configurable": {"tenant": "polyglot", "locale": locale}, "callbacks": [recorder]}
    with pytest.raises(GuardBlocked) as blocked:
        await METHODS[name](guard.with_config(config), ATTACK)  # type: ignore[arg-type]
    assert blocked.value.verdict.message == told
    assert [data["messages"] for _, data in recorder.events if data["action"] == "block"] == [
        {"de": "Nein.", "en": "No.", "pt-BR": "Não."}
    ]
    assert "locale" in [spec.id for spec in guard.config_specs]


def test_the_key_of_the_language_can_be_set(policies: Any, keywords: Any) -> None:
    write_policies(policies, {"tenants/polyglot.yaml": LANGUAGES})
    guard = GuardRunnable.from_policies(policies, detector=keywords, locale_key="lang").for_tenant("polyglot")
    with pytest.raises(GuardBlocked) as blocked:
        guard.invoke(ATTACK, {"configurable": {"lang": "en", "locale": "pt-BR"}})
    assert blocked.value.verdict.message == "No."


class Broken(KeywordDetector):
    def score(self, steps: Any, *, keys: Any = None) -> Any:
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("name", METHODS)
async def test_where_the_detector_failed_the_policy_says_what_passes(policies: Any, keywords: Any, name: str) -> None:
    write_policies(policies, {"tenants/lax.yaml": "extends: default\nfail: {input: allow, output: flag}"})
    broken = Broken({"injection": {"injection": []}, "safety": {"unsafe": [], "rude": []}})
    guard = GuardRunnable.from_policies(policies, detector=broken)
    with pytest.raises(GuardBlocked) as blocked:
        await METHODS[name](guard, "hi")
    assert (blocked.value.verdict.rule, blocked.value.verdict.cause) == ("fail:error", "error")
    assert await METHODS[name](guard.for_tenant("lax"), "hi") == "hi"


async def test_a_tenants_first_step_does_not_block_the_event_loop(policies: Any, keywords: Any) -> None:
    files = {f"tenants/t{at}.yaml": "extends: default" for at in range(101)}
    guard = GuardRunnable.from_policies(write_policies(policies, files), detector=keywords)
    loop, loading, released = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    load = guard.guard.policies._get

    def slow(tenant: str) -> Any:
        loop.call_soon_threadsafe(loading.set)
        assert released.wait(30), "the event loop was blocked"
        return load(tenant)

    guard.guard.policies._get = slow  # type: ignore[method-assign]
    judging = asyncio.create_task(guard.ainvoke("hi", {"configurable": {"tenant": "t7"}}))
    await asyncio.wait_for(loading.wait(), 30)
    released.set()
    assert await judging == "hi"


def test_views_say_the_direction_outright(guard: GuardRunnable) -> None:
    assert guard.output.invoke(ATTACK) == ATTACK
    assert guard.input.invoke("POISON") == "POISON"
    with pytest.raises(GuardBlocked):
        guard.at("retrieval").invoke(ATTACK)
    with pytest.raises(UnsupportedValueError, match="unknown stage"):
        guard.at("sideways")  # type: ignore[arg-type]


def test_64_threads_share_a_guard_with_8_tenants(tmp_path: Any, embedded: Any) -> None:
    (tmp_path / "tenants").mkdir()
    rule = "{name: r, stages: [input], head: injection, threshold: %s, action: %s}"
    (tmp_path / "default.yaml").write_text("rules: [" + rule % (1.0, "flag") + "]")
    for i in range(8):
        action = "block" if i % 2 else "flag"
        text = f"message: tenant {i}\nrules: [{rule % ('0.0000001', action)}]"
        (tmp_path / "tenants" / f"t{i}.yaml").write_text(text)
    guard = GuardRunnable.from_policies(tmp_path, detector=embedded).input

    def one(i: int) -> tuple[int, str]:
        try:
            guard.invoke(f"How do I bake bread number {i}?", {"configurable": {"tenant": f"t{i % 8}"}})
            return i, "passed"
        except GuardBlocked as blocked:
            return i, f"{blocked.verdict.tenant}: {blocked.verdict.message}"

    with ThreadPoolExecutor(64) as pool:
        for i, result in pool.map(one, range(256)):
            assert result == (f"t{i % 8}: tenant {i % 8}" if i % 2 else "passed")


# --- events


class Recorder(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **kwargs: Any) -> None:
        self.events.append((name, data))


async def test_each_step_is_a_custom_event_without_its_text(guard: GuardRunnable) -> None:
    chain = guard | ScriptedChatModel(answer="fine") | guard
    sync, asynchronous = Recorder(), Recorder()
    chain.invoke([HumanMessage("secret words")], {"callbacks": [sync]})
    await chain.ainvoke([HumanMessage("secret words")], {"callbacks": [asynchronous]})
    for recorder in (sync, asynchronous):
        assert [(name, data["stage"]) for name, data in recorder.events] == [
            ("lec_guard.verdict", "input"),
            ("lec_guard.verdict", "output"),
        ]
        assert "secret" not in str(recorder.events)


async def test_a_blocked_step_is_an_event_too(guard: GuardRunnable) -> None:
    recorder = Recorder()
    guard.batch([ATTACK, "hi"], {"callbacks": [recorder]}, return_exceptions=True)
    assert [data["action"] for _, data in recorder.events] == ["block", "allow", "allow", "allow"]
    recorder = Recorder()
    with pytest.raises(GuardBlocked):
        [chunk async for chunk in guard.astream(ATTACK, {"callbacks": [recorder]})]
    assert [data["action"] for _, data in recorder.events] == ["block", "allow"]


async def test_events_are_in_astream_events(guard: GuardRunnable) -> None:
    chain = guard | ScriptedChatModel(answer="fine") | guard
    events = [e async for e in chain.astream_events("hi", version="v2") if e["event"] == "on_custom_event"]
    assert [e["data"]["stage"] for e in events] == ["input", "output", "output"]


def test_a_block_survives_a_pickle(guard: GuardRunnable) -> None:
    with pytest.raises(GuardBlocked) as blocked:
        guard.invoke(ATTACK)
    again = pickle.loads(pickle.dumps(blocked.value))
    assert again.verdict == blocked.value.verdict


def test_fallbacks_turn_a_block_into_an_answer(guard: GuardRunnable) -> None:
    llm = ScriptedChatModel()
    refusal = RunnableLambda(lambda _: AIMessage("Sorry."))
    chain = (guard | llm | guard).with_fallbacks([refusal], exceptions_to_handle=(GuardBlocked,))
    assert chain.invoke(ATTACK).content == "Sorry."
    assert llm.calls == []


async def test_the_event_loop_runs_on_while_the_detector_works(policies: Any) -> None:
    import time

    class Slow(KeywordDetector):
        def score(self, steps: Any, *, keys: Any = None) -> Any:
            time.sleep(0.3)
            return super().score(steps, keys=keys)

    detector = Slow({"injection": {"injection": ["attack"]}, "safety": {"unsafe": ["poison"], "rude": ["darn"]}})
    guard = GuardRunnable.from_policies(policies, detector=detector)
    task = asyncio.create_task(guard.ainvoke("hi"))
    ticks = 0
    while not task.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 5
