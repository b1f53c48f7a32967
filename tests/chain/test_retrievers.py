"""Guarded retrievers and filters of documents: what is blocked is left out and told, and everything else is there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda

from lec_guard import EscalationPending, PolicyError, UnsupportedValueError
from tests.chain.test_tools import POLICY, Heard, World


class Shelf(BaseRetriever):
    """Gives all that it has."""

    documents: list[Any]
    k: int = 10

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return list(self.documents[: self.k])


DOCUMENTS = [
    Document("fine", id="1", metadata={"page": 1}), Document("an ATTACK", id="2"), Document("oh darn", id="3"),
    Document("fine", id="4", metadata={"title": "ATTACK"}), Document("fine", id="5", metadata={"title": "darn"}),
]  # fmt: skip
PASSED = [
    Document("fine", id="1", metadata={"page": 1}), Document("oh dear", id="3"),
    Document("fine", id="5", metadata={"title": "dear"}),
]  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


HOWS = ["invoke", "ainvoke", "batch", "abatch", "stream", "astream"]


def use(runnable: Any, given: Any, how: str, config: Any = None) -> Any:
    async def streamed() -> Any:
        return [chunk async for chunk in runnable.astream(given, config)]

    match how:
        case "invoke":
            return runnable.invoke(given, config)
        case "ainvoke":
            return asyncio.run(runnable.ainvoke(given, config))
        case "batch":
            return runnable.batch([given], config)[0]
        case "abatch":
            return asyncio.run(runnable.abatch([given], config))[0]
        case "stream":
            return [one for chunk in runnable.stream(given, config) for one in chunk]
        case _:
            return [one for chunk in asyncio.run(streamed()) for one in chunk]


@pytest.mark.parametrize("how", HOWS)
def test_documents_that_may_pass_are_given(world: World, how: str) -> None:
    retriever = world.guard.retriever(Shelf(documents=DOCUMENTS))
    assert use(retriever, "my query", how) == PASSED
    assert {step.context for step in world.detector.seen} == {"my query"}
    assert {step.stage for step in world.detector.seen} == {"retrieval"}
    told = [event.verdict.action for event in world.recorder.events if hasattr(event, "result") is False]
    assert told.count("block") == 2


@pytest.mark.parametrize("how", HOWS)
def test_a_filter_stands_behind_any_retriever(world: World, how: str) -> None:
    chain = Shelf(documents=DOCUMENTS) | world.guard.documents
    assert use(chain, "my query", how) == PASSED
    assert {step.context for step in world.detector.seen} == {None}
    assert use(RunnableLambda(lambda _: []) | world.guard.documents, "q", how) == []


def test_what_needs_no_change_is_the_same_object(world: World) -> None:
    fine = [Document("fine"), Document("well")]
    passed = world.guard.retriever(Shelf(documents=fine)).invoke("q")
    assert [one is old for one, old in zip(passed, fine, strict=True)] == [True, True]


def test_lists_of_a_batch_stay_apart(world: World) -> None:
    lists = [DOCUMENTS, [], DOCUMENTS[:2], ["text"], DOCUMENTS[2:3]]
    results = world.guard.documents.batch(lists, return_exceptions=True)
    assert [len(one) if isinstance(one, list) else type(one) for one in results] == [3, 0, 1, UnsupportedValueError, 1]


@pytest.mark.parametrize("value", ["text", None, [1], {"documents": []}])
def test_a_filter_takes_documents_only(world: World, value: Any) -> None:
    with pytest.raises(UnsupportedValueError):
        world.guard.documents.invoke(value)
    with pytest.raises(UnsupportedValueError):
        asyncio.run(world.guard.documents.ainvoke(value))


def test_what_can_t_be_read_is_raised(world: World) -> None:
    with pytest.raises(UnsupportedValueError):
        world.guard.retriever(Shelf(documents=[Document("x", metadata={"raw": object()})])).invoke("q")


@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_the_tenant_is_that_of_the_run(tmp_path: Path, how: str) -> None:
    mild = "message: No.\nrules:\n  - {name: b, stages: [input], head: injection, threshold: 0.5, action: block}\n"
    world = World(tmp_path, POLICY, mild=mild)
    retriever = world.guard.retriever(Shelf(documents=DOCUMENTS))
    assert len(use(retriever, "q", how)) == 3
    assert len(use(retriever, "q", how, {"configurable": {"tenant": "mild"}})) == 5
    with pytest.raises(PolicyError):
        use(retriever, "q", how, {"configurable": {"tenant": "unknown"}})
    chain = retriever | RunnableLambda(len)
    assert use(chain, "q", how, {"configurable": {"tenant": "mild"}}) == 5


def test_a_question_goes_to_the_caller(tmp_path: Path) -> None:
    policy = POLICY + (
        "      - {name: ask, stages: [retrieval], head: safety, labels: [unsafe], threshold: 0.5, action: escalate,\n"
        "         escalation: desk}\n"
        "    escalations: {desk: {kind: queue}}\n"
    )
    world = World(tmp_path, policy, queue=f"sqlite:///{tmp_path}/queue.db")
    with pytest.raises(EscalationPending):
        world.guard.retriever(Shelf(documents=[Document("POISON"), Document("ATTACK")])).invoke("q")
    world.guard.guard.close()


def test_events_go_to_the_run_s_callbacks(world: World) -> None:
    heard = Heard()
    world.guard.retriever(Shelf(documents=DOCUMENTS[:2])).invoke("q", {"callbacks": [heard]})
    assert heard.events == [("lec_guard.verdict", "retrieval")] * 2


def test_langchain_s_own_way_in_is_judged_too(world: World) -> None:
    retriever: Any = world.guard.retriever(Shelf(documents=DOCUMENTS))
    none = CallbackManagerForRetrieverRun.get_noop_manager()
    assert retriever._get_relevant_documents("q", run_manager=none) == PASSED
    assert retriever.retriever.documents is not None
    assert retriever.tags is None
