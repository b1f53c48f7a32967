"""LlamaIndex: retrieved nodes are judged before a model is shown them, and a query engine's questions and answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.documents import Document

from lec_guard.chain.lens import Reading, read
from lec_guard.chain.plan import Passed
from lec_guard.chain.values import ajudge, judge, released
from lec_guard.errors import GuardBlocked, LecGuardError, UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.step import Verdict

try:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.response.schema import (
        RESPONSE_TYPE,
        AsyncStreamingResponse,
        PydanticResponse,
        Response,
        StreamingResponse,
    )
    from llama_index.core.bridge.pydantic import Field
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.prompts.mixin import PromptMixinType
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(
        f"guards for LlamaIndex need {missing.name}; run: pip install 'lec-guard[llama-index]'"
    ) from None

Tenant = str | Callable[[], str | None] | None
"""A tenant, or what knows it when a query comes, for example from a context variable."""

_MEDIA = ("image", "image_path", "image_url", "image_resource", "audio_resource", "video_resource")

_log = logging.getLogger(__name__)


class GuardPostprocessor(BaseNodePostprocessor):
    """Judges retrieved nodes, text and metadata, before a model is shown them.

    A node that may not pass is left out, and a warning says how many were; sinks of the guard have their verdicts. What
    is rewritten is rewritten in a copy: the index is not changed, and a node keeps id, score and embedding. List it
    first: others (rerankers) may ask a model.

    Attributes:
        guard: What judges.
        tenant: Whose policy applies.
    """

    guard: Guard = Field(exclude=True)
    tenant: Tenant = Field(default=None, exclude=True)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows the class."""
        return "GuardPostprocessor"

    def _postprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,  # noqa: ARG002 - LlamaIndex's signature
    ) -> list[NodeWithScore]:
        readings = [_node(one.node) for one in nodes]
        return _kept(nodes, judge(self.guard, readings, _tenant(self.tenant)))

    async def _apostprocess_nodes(
        self,
        nodes: list[NodeWithScore],
        query_bundle: QueryBundle | None = None,  # noqa: ARG002 - LlamaIndex's signature
    ) -> list[NodeWithScore]:
        readings = [_node(one.node) for one in nodes]
        return _kept(nodes, await ajudge(self.guard, readings, _tenant(self.tenant)))


def _node(node: BaseNode) -> Reading:
    if any(getattr(node, name, None) for name in _MEDIA):
        raise UnsupportedValueError(
            f"a {type(node).__name__} has an image or the like: the guard reads text, and passes nothing unread"
        )
    return read(Document(page_content=node.get_content(MetadataMode.NONE), metadata=dict(node.metadata)))


def _kept(nodes: Sequence[NodeWithScore], judged: Sequence[Passed | LecGuardError]) -> list[NodeWithScore]:
    """The nodes that may pass."""
    kept: list[NodeWithScore] = []
    for one, result in zip(nodes, judged, strict=True):
        if isinstance(result, LecGuardError):
            raise result
        if result.verdict.blocked:
            continue
        document, node = result.value, one.node
        text = node.get_content(MetadataMode.NONE)
        if document.page_content != text or document.metadata != node.metadata:
            node = node.model_copy(update={"metadata": document.metadata})
            if document.page_content != text:
                node.set_content(document.page_content)
            one = one.model_copy(update={"node": node})
        kept.append(one)
    if len(kept) < len(nodes):
        _log.warning("%d of %d retrieved nodes may not pass and were left out", len(nodes) - len(kept), len(nodes))
    return kept


def guarded_query_engine(engine: BaseQueryEngine, guard: Guard, *, tenant: Tenant = None) -> GuardedQueryEngine:
    """Put a guard around a query engine; the engine is not changed.

    Args:
        engine: Any query engine. Give it a `GuardPostprocessor`, too: what it retrieves is its own.
        guard: What judges.
        tenant: Whose policy applies.

    Returns:
        A query engine that judges questions and answers.
    """
    return GuardedQueryEngine(engine, guard, tenant=tenant)


class GuardedQueryEngine(BaseQueryEngine):
    """Judges a question, asks an engine, and judges its answer with the question as context.

    The engine is not asked what is blocked. The answer is then a `Response` with the policy's message, no sources, and
    `metadata["lec_guard"]`; where an answer is blocked that streams, the message is streamed. A stream is held back
    whole. Tokens that stand for redacted data in the question are put back into the answer after it was judged.
    `EscalationPending` and `UnsupportedValueError` are raised.

    Args:
        engine: What is protected.
        guard: What judges.
        tenant: Whose policy applies.
    """

    def __init__(self, engine: BaseQueryEngine, guard: Guard, *, tenant: Tenant = None) -> None:
        super().__init__(engine.callback_manager)
        self._engine = engine
        self._guard = guard
        self._of = tenant

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"engine": self._engine}

    def _query(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        tenant = _tenant(self._of)
        asked = _asked(query_bundle, judge(self._guard, _questions(query_bundle), tenant))
        if isinstance(asked, Response):
            return asked
        answer = _Answer.of(self._engine.query(asked.query))
        if answer.chunks is None:
            answer.chunks = _drained(answer.response)
        reading = answer.reading(asked.query.query_str)
        return answer.judged(judge(self._guard, [reading], tenant)[0], asked.tokens)

    async def _aquery(self, query_bundle: QueryBundle) -> RESPONSE_TYPE:
        tenant = _tenant(self._of)
        asked = _asked(query_bundle, await ajudge(self._guard, _questions(query_bundle), tenant))
        if isinstance(asked, Response):
            return asked
        answer = _Answer.of(await self._engine.aquery(asked.query))
        if answer.chunks is None:
            answer.chunks = await _adrained(answer.response)
        reading = answer.reading(asked.query.query_str)
        return answer.judged((await ajudge(self._guard, [reading], tenant))[0], asked.tokens)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question that passed, and what may be put back into its answer."""

    query: QueryBundle
    tokens: Mapping[str, str]


def _questions(query: QueryBundle) -> list[Reading]:
    """The texts of a question: what a model is shown, and what is embedded instead."""
    if query.image_path:
        raise UnsupportedValueError("the query has an image: the guard reads text, and passes nothing unread")
    return [read(text, "input") for text in (query.query_str, *(query.custom_embedding_strs or ()))]


def _asked(query: QueryBundle, judged: Sequence[Passed | LecGuardError]) -> _Asked | Response:
    try:
        passed = [released(one) for one in judged]
    except GuardBlocked as blocked:
        return _refusal(blocked.verdict)
    texts = [one.value for one in passed]
    if texts == [query.query_str, *(query.custom_embedding_strs or ())]:
        return _Asked(query, {})
    tokens = {token: meant for one in passed for token, meant in one.tokens.items()}
    # The embedding is of the text as it was.
    custom = texts[1:] if query.custom_embedding_strs is not None else None
    return _Asked(replace(query, query_str=texts[0], custom_embedding_strs=custom, embedding=None), tokens)


@dataclass(slots=True)
class _Answer:
    """An engine's answer.

    Attributes:
        response: As the engine gave it.
        chunks: All of a stream; None where it is yet to be read, and empty where it is none.
    """

    response: Any
    chunks: list[str] | None

    @classmethod
    def of(cls, response: Any) -> _Answer:
        """An answer, as far as it needs no waiting for."""
        match response:
            case Response() | PydanticResponse():
                return cls(response, [])
            case StreamingResponse() | AsyncStreamingResponse():
                return cls(response, None)
            case _:
                raise UnsupportedValueError(f"the engine's answer is a {type(response).__name__}, which can't be read")

    def reading(self, request: str) -> Reading:
        """What is judged of it."""
        said = self.response.response if isinstance(self.response, Response | PydanticResponse) else self._whole()
        return read("" if said is None else said, "output", request)

    def judged(self, result: Passed | LecGuardError, tokens: Mapping[str, str]) -> RESPONSE_TYPE:
        """The answer as it may pass, or a refusal."""
        if isinstance(result, LecGuardError):
            raise result
        if result.verdict.blocked:
            told = _refusal(result.verdict)
            return told if isinstance(self.response, Response | PydanticResponse) else self._streamed(told)
        value = _restored(result.value, tokens)
        if isinstance(self.response, Response | PydanticResponse):
            if self.response.response is None or value == self.response.response:
                return self.response
            return replace(self.response, response=value)
        chunks = self.chunks or []
        again: Any = chunks if value == self._whole() else [value]
        is_async = isinstance(self.response, AsyncStreamingResponse)
        new: RESPONSE_TYPE = replace(
            self.response, response_gen=_again(again) if is_async else iter(again), response_txt=None
        )
        return new

    def _whole(self) -> str:
        return "".join(self.chunks or [])

    def _streamed(self, told: Response) -> RESPONSE_TYPE:
        said = [told.response or ""]
        if isinstance(self.response, AsyncStreamingResponse):
            return AsyncStreamingResponse(_again(said), metadata=told.metadata)
        return StreamingResponse(iter(said), metadata=told.metadata)  # type: ignore[arg-type] # An iterator will do.


def _drained(response: Any) -> list[str]:
    if isinstance(response, AsyncStreamingResponse):
        raise UnsupportedValueError("the engine streams to async callers only: use aquery")
    return list(response.response_gen)


async def _adrained(response: Any) -> list[str]:
    if isinstance(response, AsyncStreamingResponse):
        return [chunk async for chunk in response.response_gen]
    return await asyncio.to_thread(list, response.response_gen)


async def _again(chunks: Sequence[str]) -> AsyncGenerator[str, None]:
    for chunk in chunks:
        yield chunk


def _restored(value: Any, tokens: Mapping[str, str]) -> Any:
    """An answer with what the tokens of its question stand for."""
    if not tokens:
        return value
    # Imported here: most questions have nothing to put back.
    from lec_guard.act.redact import restore

    return read(value, "output").mapped(lambda text: restore(text, tokens))


def _refusal(verdict: Verdict) -> Response:
    told = {"action": verdict.action, "stage": verdict.stage, "rule": verdict.rule}
    return Response(verdict.message or "", metadata={"lec_guard": told})


def _tenant(tenant: Tenant) -> str | None:
    return tenant() if callable(tenant) else tenant
