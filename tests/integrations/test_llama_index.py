"""LlamaIndex: what a query engine retrieves, is asked and answers."""

from __future__ import annotations

import contextvars
import logging
from typing import Any

import pytest
from lec_guard_integrations.llama_index import GuardPostprocessor, guarded_query_engine
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import (
    AsyncStreamingResponse,
    PydanticResponse,
    Response,
    StreamingResponse,
)
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode
from pydantic import BaseModel

from lec_guard import EscalationPending, PolicyError, UnsupportedValueError
from tests.integrations.guards import Guarded

BOTH = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def scored(*nodes: Any) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=one) if isinstance(one, str) else one, score=0.5) for one in nodes]


# --- nodes


async def kept(guard: GuardPostprocessor, nodes: list[NodeWithScore], is_async: bool) -> list[NodeWithScore]:
    if is_async:
        return await guard.apostprocess_nodes(nodes, query_str="q")
    return guard.postprocess_nodes(nodes, query_str="q")


@BOTH
@pytest.mark.parametrize("kind", [TextNode, Node])
async def test_nodes_that_may_not_pass_are_left_out(
    guarded: Guarded, is_async: bool, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def node(text: str, **more: Any) -> Any:
        return TextNode(text=text, **more) if kind is TextNode else Node(text_resource={"text": text}, **more)

    nodes = scored(
        node("fine", metadata={"page": 1}),
        node("an attack"),
        node("fine", metadata={"title": "attack"}),
        node("darn", metadata={"title": "darn", "page": 2}, embedding=[1.0]),
    )
    with caplog.at_level(logging.WARNING):
        first, last = await kept(GuardPostprocessor(guard=guarded.guard), nodes, is_async)
    assert first is nodes[0]
    assert (last.node.get_content(MetadataMode.NONE), last.metadata) == ("dear", {"title": "dear", "page": 2})
    assert (last.node_id, last.score, last.embedding) == (nodes[3].node_id, 0.5, [1.0])
    assert (nodes[3].node.get_content(MetadataMode.NONE), nodes[3].metadata["title"]) == ("darn", "darn")
    assert caplog.messages == ["2 of 4 retrieved nodes may not pass and were left out"]
    assert {stage for stage, _ in guarded.seen} == {"retrieval"}


@BOTH
async def test_errors_of_nodes(guarded: Guarded, is_async: bool) -> None:
    guard = GuardPostprocessor(guard=guarded.guard)
    with pytest.raises(EscalationPending):
        await kept(guard, scored("poison"), is_async)
    assert await kept(guard, scored("boom"), is_async) == []
    for node in (
        ImageNode(image="aGk="),
        ImageNode(text="x", image_url="http://x"),
        Node(image_resource={"data": b"x"}),
    ):
        with pytest.raises(UnsupportedValueError, match="image"):
            await kept(guard, scored(node), is_async)


def test_tenants(guarded: Guarded) -> None:
    now: contextvars.ContextVar[str | None] = contextvars.ContextVar("now", default=None)
    guard = GuardPostprocessor(guard=guarded.guard, tenant=now.get)
    assert guard.postprocess_nodes(scored("hi"))
    now.set("nobody")
    with pytest.raises(PolicyError):
        guard.postprocess_nodes(scored("hi"))
    assert "guard" not in guard.to_dict()


# --- query engines


class Engine(BaseQueryEngine):
    """Answers every question with the same, and keeps the questions."""

    def __init__(self, answer: Any) -> None:
        super().__init__(None)
        self.asked: list[QueryBundle] = []
        self.answer = answer

    def _get_prompt_modules(self) -> Any:
        return {}

    def _query(self, query_bundle: QueryBundle) -> Any:
        self.asked.append(query_bundle)
        return self.answer(query_bundle) if callable(self.answer) else self.answer

    async def _aquery(self, query_bundle: QueryBundle) -> Any:
        return self._query(query_bundle)


async def ask(engine: Engine, guarded: Guarded, question: Any, is_async: bool, tenant: Any = None) -> Any:
    whole = guarded_query_engine(engine, guarded.guard, tenant=tenant)
    return await whole.aquery(question) if is_async else whole.query(question)


@BOTH
async def test_what_may_pass_passes(guarded: Guarded, is_async: bool) -> None:
    engine = Engine(Response("Fine.", source_nodes=scored("a source")))
    assert await ask(engine, guarded, "hello", is_async) is engine.answer
    assert guarded.seen == [("input", "hello"), ("output", "Fine.")]
    assert guarded.detector.seen[1].context == "hello"


@BOTH
@pytest.mark.parametrize("question", ["an attack", QueryBundle("hi", custom_embedding_strs=["attack"]), "boom"])
async def test_the_engine_is_not_asked_what_is_blocked(guarded: Guarded, question: Any, is_async: bool) -> None:
    engine = Engine(Response("Fine."))
    told = await ask(engine, guarded, question, is_async)
    assert (str(told), told.metadata["lec_guard"]["stage"]) == ("No.", "input")
    assert engine.asked == []


@BOTH
async def test_an_answer_that_is_blocked_brings_no_sources(guarded: Guarded, is_async: bool) -> None:
    told = await ask(Engine(Response("an attack", source_nodes=scored("s"))), guarded, "hi", is_async)
    assert (str(told), told.source_nodes, told.metadata["lec_guard"]["stage"]) == ("No.", [], "output")


@BOTH
async def test_rewrites(guarded: Guarded, is_async: bool) -> None:
    engine = Engine(Response("oh darn", source_nodes=scored("s")))
    question = QueryBundle("darn it", custom_embedding_strs=["darn"], embedding=[1.0])
    answer = await ask(engine, guarded, question, is_async)
    assert (str(answer), len(answer.source_nodes)) == ("oh dear", 1)
    assert engine.asked == [QueryBundle("dear it", custom_embedding_strs=["dear"], embedding=None)]
    assert question.query_str == "darn it"


@BOTH
async def test_tokens_are_put_back_into_the_answer(guarded: Guarded, is_async: bool) -> None:
    engine = Engine(lambda query: Response(f"You asked: {query.query_str}"))
    answer = await ask(engine, guarded, "mail ana@example.com", is_async)
    assert "ana@example.com" not in engine.asked[0].query_str
    assert str(answer) == "You asked: mail ana@example.com"


@BOTH
async def test_errors_and_tenants(guarded: Guarded, is_async: bool) -> None:
    engine = Engine(Response("Fine."))
    with pytest.raises(EscalationPending):
        await ask(engine, guarded, "poison", is_async)
    with pytest.raises(UnsupportedValueError, match="image"):
        await ask(engine, guarded, QueryBundle("hi", image_path="x.png"), is_async)
    assert str(await ask(engine, guarded, "darn", is_async, tenant=lambda: "acme")) == "Acme says no."
    assert engine.asked == []


class Answer(BaseModel):
    text: str
    page: int = 1


@BOTH
async def test_structured_answers(guarded: Guarded, is_async: bool) -> None:
    answer = await ask(Engine(PydanticResponse(Answer(text="oh darn"))), guarded, "hi", is_async)
    assert answer.response == Answer(text="oh dear")
    assert str(await ask(Engine(PydanticResponse(Answer(text="attack"))), guarded, "hi", is_async)) == "No."


# --- streams


def streaming(*chunks: str) -> tuple[Engine, list[str]]:
    """An engine that streams, and what was taken of its stream so far."""
    taken: list[str] = []

    def chunked() -> Any:
        for chunk in chunks:
            taken.append(chunk)
            yield chunk

    return Engine(lambda _: StreamingResponse(chunked(), source_nodes=scored("s"))), taken


async def chunks_of(response: Any) -> list[str]:
    if isinstance(response, AsyncStreamingResponse):
        return [chunk async for chunk in response.async_response_gen()]
    return list(response.response_gen)


@BOTH
@pytest.mark.parametrize(
    ("chunks", "given"),
    [(["he", "llo"], ["he", "llo"]), (["oh da", "rn"], ["oh dear"]), (["fine, att", "ack"], ["No."])],
)
async def test_a_stream_is_judged_whole(guarded: Guarded, chunks: list[str], given: list[str], is_async: bool) -> None:
    engine, taken = streaming(*chunks)
    response = await ask(engine, guarded, "hi", is_async)
    assert isinstance(response, StreamingResponse)
    assert taken == chunks  # Before anybody has taken a chunk of ours.
    assert await chunks_of(response) == given
    assert len(response.source_nodes) == (0 if given == ["No."] else 1)


@pytest.mark.parametrize(
    ("chunks", "given"), [(["he", "llo"], ["he", "llo"]), (["oh da", "rn"], ["oh dear"]), (["att", "ack"], ["No."])]
)
async def test_an_async_stream_is_judged_whole(guarded: Guarded, chunks: list[str], given: list[str]) -> None:
    async def chunked() -> Any:
        for chunk in chunks:
            yield chunk

    engine = Engine(lambda _: AsyncStreamingResponse(chunked()))
    response = await ask(engine, guarded, "hi", True)
    assert isinstance(response, AsyncStreamingResponse)
    assert await chunks_of(response) == given
    with pytest.raises(UnsupportedValueError, match="aquery"):
        await ask(engine, guarded, "hi", False)


# --- together with LlamaIndex's own engine


class Retriever(BaseRetriever):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return scored("Opening hours: 9 to 17.", "an attack", "so darn late")


@BOTH
async def test_a_model_is_shown_only_what_may_pass(guarded: Guarded, is_async: bool) -> None:
    engine = RetrieverQueryEngine(
        Retriever(),
        get_response_synthesizer(llm=MockLLM()),  # It repeats what it is asked.
        node_postprocessors=[GuardPostprocessor(guard=guarded.guard)],
    )
    whole = guarded_query_engine(engine, guarded.guard)
    answer = str(await whole.aquery("When?") if is_async else whole.query("When?"))
    assert "Opening hours" in answer
    assert "so dear late" in answer
    assert "attack" not in answer
