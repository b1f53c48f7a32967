"""Streams that are judged while they come: what goes on, what stops, and what of it is left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langgraph.graph import END, START, MessagesState, StateGraph

from lec_guard import GuardBlocked, GuardRunnable, PolicyError
from lec_guard.chain.callbacks import AsyncGuardCallbackHandler, GuardCallbackHandler
from lec_guard.chain.holding import Holding
from lec_guard.testing import KeywordDetector, ScriptedChatModel
from tests.conftest import write_policies

HOLD_BACK = 20
POLICY = f"""
message: No.
hold_back: {HOLD_BACK}
rules:
  - {{name: attack, stages: [input, output, tool_input], head: words, labels: [attack], threshold: 0.5, action: block}}
  - {{name: secret, stages: [output], head: words, labels: [secret], threshold: 0.5, action: rewrite, rewrite: out}}
rewrite: {{out: {{kind: drop_spans}}}}
"""
PLAIN = "The weather is fine, and will be so until the end of the week. "


@pytest.fixture
def detector() -> KeywordDetector:
    return KeywordDetector({"words": {"attack": ["attack"], "secret": ["secret"]}})


@pytest.fixture
def guard(tmp_path: Path, detector: KeywordDetector) -> GuardRunnable:
    folder = write_policies(tmp_path, {"default.yaml": POLICY, "tenants/acme.yaml": "extends: default\nmessage: Nein."})
    return GuardRunnable.from_policies(folder, detector=detector)


class Upstream:
    """A model that gives these chunks, and counts how many were pulled, and whether it was closed."""

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = chunks
        self.pulled = 0
        self.is_closed = False

    def __call__(self, _: Any) -> Iterator[Any]:
        try:
            for chunk in self.chunks:
                self.pulled += 1
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.is_closed = True

    async def acall(self, _: Any) -> AsyncIterator[Any]:
        try:
            for chunk in self.chunks:
                await asyncio.sleep(0)
                self.pulled += 1
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.is_closed = True

    @property
    def runnable(self) -> RunnableGenerator[Any, Any]:
        return RunnableGenerator(self.__call__, self.acall)


def letters(text: str) -> list[Any]:
    return list(text)


def messages(text: str) -> list[Any]:
    chunks = [AIMessageChunk(content=letter, id="run-1") for letter in text]
    chunks[-1] = AIMessageChunk(
        content=text[-1],
        id="run-1",
        response_metadata={"finish_reason": "stop"},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        chunk_position="last",
    )
    return chunks


def blocks(text: str) -> list[Any]:
    return [AIMessageChunk(content=[{"type": "text", "text": letter, "index": 0}], id="run-1") for letter in text]


def reasoned(text: str) -> list[Any]:
    thought = [AIMessageChunk(content=[{"type": "reasoning", "reasoning": x, "index": 0}]) for x in PLAIN]
    said = [AIMessageChunk(content=[{"type": "text", "text": x, "index": 1}]) for x in text]
    return thought + said


def reasoned_aside(text: str) -> list[Any]:
    thought = [AIMessageChunk(content="", additional_kwargs={"reasoning_content": x}) for x in PLAIN]
    return thought + [AIMessageChunk(content=x) for x in text]


FORMS: dict[str, Callable[[str], list[Any]]] = {
    "str": letters,
    "messages": messages,
    "blocks": blocks,
    "reasoned": reasoned,
    "reasoned aside": reasoned_aside,
}
forms = pytest.mark.parametrize("form", FORMS)
ways = pytest.mark.parametrize("how", ["sync", "async"])


def said(chunks: list[Any]) -> str:
    return "".join(chunk if isinstance(chunk, str) else chunk.text for chunk in chunks)


def collected(runnable: Any, how: str, value: Any = "hi", config: Any = None) -> tuple[list[Any], Exception | None]:
    """The chunks, and what was raised."""
    got: list[Any] = []

    async def acollect() -> None:
        async for chunk in runnable.astream(value, config):
            got.append(chunk)

    try:
        if how == "async":
            asyncio.run(acollect())
        else:
            for chunk in runnable.stream(value, config):
                got.append(chunk)
    except (GuardBlocked, PolicyError, ConnectionError, RuntimeError) as error:
        return got, error
    return got, None


def early(guard: Any, upstream: Upstream, how: str) -> list[int]:
    """How many chunks were pulled when each one came."""
    pulled: list[int] = []

    async def acollect() -> None:
        async for _ in (upstream.runnable | guard).astream("hi"):
            pulled.append(upstream.pulled)

    if how == "async":
        asyncio.run(acollect())
    else:
        pulled += [upstream.pulled for _ in (upstream.runnable | guard).stream("hi")]
    return pulled


# --- what goes on


@ways
@forms
def test_chunks_go_on_as_they_came_before_the_stream_is_over(guard: GuardRunnable, how: str, form: str) -> None:
    upstream = Upstream(FORMS[form](PLAIN * 2))
    pulled = early(guard.output, upstream, how)
    assert pulled[0] <= HOLD_BACK + 3
    assert len(pulled) == len(upstream.chunks)
    chunks, error = collected(upstream.runnable | guard.output, how)
    assert error is None
    assert all(got is sent for got, sent in zip(chunks, upstream.chunks, strict=True))


@ways
@forms
@pytest.mark.parametrize("at", range(0, len(PLAIN), 7))
def test_no_character_of_an_attack_goes_on_and_no_more_is_pulled(
    guard: GuardRunnable, how: str, form: str, at: int
) -> None:
    text = PLAIN[:at] + "an attack" + PLAIN * 3
    upstream = Upstream(FORMS[form](text))
    chunks, error = collected(upstream.runnable | guard.output, how)
    assert isinstance(error, GuardBlocked)
    assert (error.verdict.rule, error.verdict.message) == ("attack", "No.")
    assert len(said(chunks)) <= at + 3
    assert text.startswith(said(chunks))
    lead = len(upstream.chunks) - len(text)
    assert upstream.pulled <= lead + at + len("an attack")
    assert upstream.is_closed


@ways
def test_an_attack_in_the_reasoning_stops_it(guard: GuardRunnable, how: str) -> None:
    for form in (reasoned, reasoned_aside):
        chunks = form(PLAIN)
        thought = "I shall attack"
        for at, letter in enumerate(thought):
            chunks[at] = (
                AIMessageChunk(content=[{"type": "reasoning", "reasoning": letter, "index": 0}])
                if form is reasoned
                else AIMessageChunk(content="", additional_kwargs={"reasoning_content": letter})
            )
        upstream = Upstream(chunks)
        got, error = collected(upstream.runnable | guard.output, how)
        assert isinstance(error, GuardBlocked)
        assert got == []
        assert upstream.pulled == len(thought)


@ways
def test_a_str_without_a_direction_is_judged_in_both(guard: GuardRunnable, detector: KeywordDetector, how: str) -> None:
    upstream = Upstream(letters(PLAIN + "attack" + PLAIN))
    chunks, error = collected(upstream.runnable | guard, how)
    assert isinstance(error, GuardBlocked)
    assert said(chunks) == PLAIN[: len(PLAIN) + 6 - 1 - HOLD_BACK]
    chunks, error = collected(Upstream(letters(PLAIN)).runnable | guard, how)
    assert said(chunks) == PLAIN
    assert len(detector.seen) == 1, "one text is read once, whatever it is judged as"


@ways
def test_a_tool_call_is_held_until_it_is_whole(guard: GuardRunnable, how: str) -> None:
    def calling(query: str) -> list[Any]:
        pieces = ['{"que', 'ry": "', *query, '"}']
        calls = [
            AIMessageChunk(
                content="",
                tool_call_chunks=[{"name": "find" if n == 0 else None, "args": args, "id": "1", "index": 0}],
            )
            for n, args in enumerate(pieces)
        ]
        return [*messages(PLAIN), *calls]

    upstream = Upstream(calling("rain"))
    pulled = early(guard.output, upstream, how)
    assert pulled[0] == HOLD_BACK + 1
    chunks, error = collected(upstream.runnable | guard.output, how)
    assert error is None
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.tool_calls[0]["args"] == {"query": "rain"}
    assert total.usage_metadata["total_tokens"] == 3
    chunks, error = collected(Upstream(calling("an attack")).runnable | guard.output, how)
    assert isinstance(error, GuardBlocked)
    assert error.verdict.stage == "tool_input"
    assert not any(chunk.tool_call_chunks for chunk in chunks)
    assert said(chunks) == PLAIN[: len(said(chunks))]


@ways
@pytest.mark.parametrize(
    "chunks",
    [
        [AIMessageChunk(content="x", name="attack"), *[AIMessageChunk(content=letter) for letter in PLAIN]],
        [AIMessageChunk(content=[{"type": "text", "text": PLAIN, "index": 0, "annotations": [{"x": "attack"}]}])],
        [AIMessageChunk(content=PLAIN, additional_kwargs={"note": "attack"})],
        [PLAIN, AIMessageChunk(content="attack")],
        [AIMessageChunk(content=PLAIN), AIMessage("attack")],
        [
            AIMessageChunk(content=[{"type": "text", "text": PLAIN + "att", "index": 0}]),
            AIMessageChunk(content=[{"type": "text", "text": "ack" + PLAIN, "index": 1}]),
        ],
        [
            AIMessageChunk(content=[{"type": "text", "text": "att", "index": 0}]),
            AIMessageChunk(content="", additional_kwargs={"reasoning_content": PLAIN}),
            AIMessageChunk(content=[{"type": "text", "text": "ack" + PLAIN, "index": 0}]),
        ],
        [{"a": "att"}, {"a": "ack"}],
        [["an attack"]],
    ],
)
def test_what_is_no_plain_text_is_held_to_the_end(guard: GuardRunnable, how: str, chunks: list[Any]) -> None:
    got, error = collected(Upstream(chunks).runnable | guard.output, how)
    assert isinstance(error, GuardBlocked)
    assert "att" not in "".join(str(chunk) for chunk in got)


@ways
def test_without_a_number_a_stream_is_held_whole(guard: GuardRunnable, tmp_path: Path, how: str) -> None:
    folder = write_policies(tmp_path / "whole", {"default.yaml": POLICY.replace(f"hold_back: {HOLD_BACK}", "")})
    whole = GuardRunnable.from_policies(folder, detector=KeywordDetector({"words": {"attack": [], "secret": []}}))
    upstream = Upstream(letters(PLAIN))
    assert set(early(whole.output, upstream, how)) == {len(PLAIN)}


@ways
def test_a_model_that_streams_nothing_gives_nothing(guard: GuardRunnable, how: str) -> None:
    assert list(guard.transform(iter([]))) == []
    assert collected(guard.output, how, PLAIN) == ([PLAIN], None)
    empty = [AIMessageChunk(content="", id="1"), AIMessageChunk(content="", chunk_position="last")]
    assert collected(Upstream(empty).runnable | guard.output, how) == (empty, None)


@ways
def test_a_tenant_that_is_none_of_ours_is_an_error_before_anything_is_pulled_on(guard: GuardRunnable, how: str) -> None:
    upstream = Upstream(letters(PLAIN))
    got, error = collected(upstream.runnable | guard, how, config={"configurable": {"tenant": "nobody"}})
    assert (got, type(error), upstream.pulled) == ([], PolicyError, 1)


# --- what is rewritten


@ways
@pytest.mark.parametrize("form", ["str", "messages"])
def test_what_is_left_of_a_stream_is_rewritten(guard: GuardRunnable, how: str, form: str) -> None:
    text = PLAIN + "It is a secret. " + PLAIN
    chunks, error = collected(Upstream(FORMS[form](text)).runnable | guard.output, how)
    assert error is None
    assert len(chunks) > 20
    assert said(chunks) == text.replace("It is a secret.", "[removed]")
    if form == "messages":
        assert {chunk.id for chunk in chunks} == {"run-1"}
        assert (chunks[-1].chunk_position, chunks[-1].response_metadata) == ("last", {"finish_reason": "stop"})
        assert chunks[-1].usage_metadata["total_tokens"] == 3


@ways
@pytest.mark.parametrize("form", ["blocks", "reasoned", "reasoned aside"])
def test_what_can_t_be_rewritten_in_the_rest_is_blocked(guard: GuardRunnable, how: str, form: str) -> None:
    text, heard = PLAIN + "It is a secret. ", Heard()
    config = {"callbacks": [heard]}
    chunks, error = collected(Upstream(FORMS[form](text)).runnable | guard.output, how, config=config)
    assert isinstance(error, GuardBlocked)
    assert "secret" not in said(chunks)
    assert ("effect", "blocked") in heard.told


def test_what_went_on_must_be_the_beginning_of_what_it_was_rewritten_to() -> None:
    from lec_guard.chain.lens import UneditableError

    holding = Holding("output", None)
    for letter in "abcdef":
        holding.take(letter)
    assert holding.passed(3) == ["a", "b", "c"]
    assert holding.rest_of(["abcX"]) == ["X"]
    for edited in (["abX"], ["ab", "cX"], []):
        with pytest.raises(UneditableError):
            holding.rest_of(edited)
    assert holding.rewritten(["abcX"]) == ["X"]


# --- the ends of streams


@ways
def test_an_error_upstream_is_an_error_and_releases_no_more(guard: GuardRunnable, how: str) -> None:
    upstream = Upstream([*letters(PLAIN), ConnectionError("gone")])
    chunks, error = collected(upstream.runnable | guard.output, how)
    assert isinstance(error, ConnectionError)
    assert said(chunks) == PLAIN[:-HOLD_BACK]


def _same(chunks: Iterator[Any]) -> Iterator[Any]:
    yield from chunks


async def _asame(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for chunk in chunks:
        yield chunk


def through(upstream: Upstream, guard: GuardRunnable) -> dict[str, Any]:
    """Chains that pull their input to its end when they are closed, as LangChain's parsers do."""
    parsed = upstream.runnable | StrOutputParser()
    return {
        "guarded": upstream.runnable | guard.output,
        "parsed before": parsed | guard.output,
        "parsed behind": upstream.runnable | guard.output | StrOutputParser(),
        "protected": guard.protect(upstream.runnable),
        "protected and parsed": guard.protect(parsed),
        "parsed twice before": parsed | RunnableGenerator(_same, _asame) | guard.output,
    }


chains = pytest.mark.parametrize(
    "chain",
    ["guarded", "parsed before", "parsed twice before", "parsed behind", "protected", "protected and parsed"],
)


@ways
@chains
def test_nothing_more_is_pulled_when_nobody_reads_on(guard: GuardRunnable, how: str, chain: str) -> None:
    if (chain, how) == ("parsed behind", "sync"):
        pytest.skip("LangChain's parser pulls from the guard what is left when it is closed")
    upstream = Upstream(messages(PLAIN * 3))
    runnable = through(upstream, guard)[chain]

    async def some() -> None:
        async with contextlib.aclosing(runnable.astream("hi")) as stream:
            async for _ in stream:
                return

    if how == "async":
        asyncio.run(some())
    else:
        stream = runnable.stream("hi")
        next(stream)
        stream.close()
    assert upstream.pulled <= HOLD_BACK + 3
    assert upstream.is_closed


@ways
@chains
def test_nothing_more_is_pulled_when_what_came_is_blocked(guard: GuardRunnable, how: str, chain: str) -> None:
    upstream = Upstream(messages("an attack. " + PLAIN * 3))
    chunks, _ = collected(through(upstream, guard)[chain], how)
    assert "attack" not in said(chunks)
    assert upstream.pulled == len("an attack")
    assert upstream.is_closed


async def test_a_stream_that_is_cancelled_ends_at_once(guard: GuardRunnable) -> None:
    class Slow(Upstream):
        async def acall(self, _: Any) -> AsyncIterator[Any]:
            try:
                for chunk in self.chunks:
                    self.pulled += 1
                    yield chunk
                    await asyncio.sleep(0.001 if self.pulled < 30 else 30)
            finally:
                self.is_closed = True

    for name in ("guarded", "protected"):
        upstream = Slow(letters(PLAIN))
        got: list[Any] = []

        async def read(runnable: Any, got: list[Any] = got) -> None:
            async for chunk in runnable.astream("hi"):
                got.append(chunk)

        task = asyncio.create_task(read(through(upstream, guard)[name]))
        while len(got) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert upstream.pulled <= 31
        assert upstream.is_closed


# --- protect


@ways
@forms
def test_a_protected_stream_ends_with_the_refusal(guard: GuardRunnable, how: str, form: str) -> None:
    upstream = Upstream(FORMS[form](PLAIN + "an attack" + PLAIN))
    chunks, error = collected(guard.protect(upstream.runnable), how, config={"configurable": {"tenant": "acme"}})
    assert error is None
    assert said(chunks[-1:]) == "Nein."
    assert PLAIN.startswith(said(chunks[:-1]))
    assert len(said(chunks[:-1])) > 20
    assert upstream.is_closed


@ways
def test_a_request_that_is_blocked_is_not_answered(guard: GuardRunnable, how: str) -> None:
    model = ScriptedChatModel()
    chunks, _ = collected(guard.protect(model), how, "an attack")
    assert said(chunks) == "No."
    assert model.calls == []


@ways
def test_another_guard_s_block_inside_is_not_taken_for_its_own(guard: GuardRunnable, how: str) -> None:
    upstream = Upstream(letters(PLAIN + "an attack"))
    chunks, error = collected(guard.protect(upstream.runnable | guard.output), how)
    assert isinstance(error, GuardBlocked)
    assert "attack" not in said(chunks)


@ways
def test_a_graph_s_stream_of_messages_is_held_whole(guard: GuardRunnable, how: str) -> None:
    graph = StateGraph(MessagesState)
    graph.add_node("model", RunnableLambda(lambda state: {"messages": [AIMessage("an attack")]}))
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    chunks, error = collected(guard.protect(graph.compile()), how, {"messages": [("user", "hi")]})
    assert error is None
    assert len(chunks) == 1
    assert "an attack" not in str(chunks)


# --- what is told


class Heard(GuardCallbackHandler):
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def on_guard_verdict(self, verdict: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(("verdict", verdict["action"]))

    def on_guard_effect(self, event: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(("effect", event["result"]))

    def on_guard_stream(self, event: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(("stream", event))


class AsyncHeard(AsyncGuardCallbackHandler):
    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    async def on_guard_verdict(self, verdict: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(("verdict", verdict["action"]))

    async def on_guard_stream(self, event: dict[str, Any], *, run_id: Any, **kwargs: Any) -> None:
        self.told.append(("stream", event))


@ways
def test_a_stream_tells_one_verdict_and_when_its_first_text_went(guard: GuardRunnable, how: str) -> None:
    heard = Heard() if how == "sync" else AsyncHeard()
    collected(Upstream(letters(PLAIN)).runnable | guard.output, how, config={"callbacks": [heard]})
    (first, action), (second, event) = heard.told
    assert (first, action, second) == ("verdict", "allow", "stream")
    assert 0 < event["ms_to_first"] < event["ms"]
    assert (event["chunks"], event["early"]) == (len(PLAIN), len(PLAIN) - HOLD_BACK)


@ways
def test_a_stream_that_is_stopped_tells_so(guard: GuardRunnable, how: str) -> None:
    heard = Heard() if how == "sync" else AsyncHeard()
    collected(Upstream(letters("an attack" + PLAIN)).runnable | guard.output, how, config={"callbacks": [heard]})
    (first, action), (second, event) = heard.told
    assert (first, action, second) == ("verdict", "block", "stream")
    assert (event["ms_to_first"], event["chunks"], event["early"]) == (None, len("an attack"), 0)
