"""Documents that may pass: a retriever with a guard around it, and a filter for lists of documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForChainRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.utils import ConfigurableFieldSpec
from pydantic import PrivateAttr

from lec_guard.chain.base import BatchRunnable, given
from lec_guard.chain.knowing import KnowingGuard, own_run
from lec_guard.chain.plan import Passed
from lec_guard.chain.quiet import Hushed, hushed_context
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.errors import LecGuardError, UnsupportedValueError


@dataclass(frozen=True, eq=False)
class DocumentFilter(BatchRunnable):
    """Takes lists of documents and gives those that may pass, as they may pass, in order.

    A batch is one call of the detector. Documents that are blocked are left out; events tell of them. Anything else
    that keeps a document from passing is raised.

    Attributes:
        guard: What judges.
        request: What the documents were looked up for; None where that is not known.
    """

    guard: GuardRunnable
    request: str | None = None

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """The keys of tenant and language in `configurable`."""
        return self.guard.config_specs

    def _batch(
        self,
        values: list[Any],
        run_manager: list[CallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        documents, configs = _flat(values, config)
        view = KnowingGuard.of(self.guard, "retrieval", request=self.request)
        return _kept(values, view.judge(view.plan(documents, configs), documents, configs))

    async def _abatch(
        self,
        values: list[Any],
        run_manager: list[AsyncCallbackManagerForChainRun],
        config: list[RunnableConfig],
        **kwargs: Any,
    ) -> list[Any]:
        documents, configs = _flat(values, config)
        view = KnowingGuard.of(self.guard, "retrieval", request=self.request)
        return _kept(values, await view.ajudge(await view.aplan(documents, configs), documents, configs))

    def _transform(
        self, chunks: Iterator[Any], run_manager: CallbackManagerForChainRun, config: RunnableConfig, **kwargs: Any
    ) -> Iterator[Any]:
        for chunk in chunks:
            yield given(self._batch([chunk], [run_manager], [config])[0])

    async def _atransform(
        self,
        chunks: AsyncIterator[Any],
        run_manager: AsyncCallbackManagerForChainRun,
        config: RunnableConfig,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        async for chunk in chunks:
            yield given((await self._abatch([chunk], [run_manager], [config]))[0])


def _flat(values: Sequence[Any], configs: Sequence[RunnableConfig]) -> tuple[list[Any], list[RunnableConfig]]:
    """All documents, one after the other, with the config of each; nothing of what is no list of documents."""
    found = [
        (document, config) for value, config in zip(values, configs, strict=True) for document in _documents(value)
    ]
    return [document for document, _ in found], [config for _, config in found]


def _documents(value: Any) -> list[Document]:
    is_list = isinstance(value, list) and all(isinstance(one, Document) for one in value)
    return list(value) if is_list else []


def _kept(values: Sequence[Any], judged: Sequence[Passed | LecGuardError]) -> list[Any]:
    """For each list what may pass of it, or an error."""
    left = iter(judged)
    results: list[Any] = []
    for value in values:
        own = [next(left) for _ in _documents(value)]
        if not isinstance(value, list) or len(own) != len(value):
            results.append(UnsupportedValueError(f"a filter of documents takes a list of them, not {_kind(value)}"))
            continue
        error = next((one for one in own if isinstance(one, LecGuardError)), None)
        passed = [one.value for one in own if isinstance(one, Passed) and not one.verdict.blocked]
        results.append(error or passed)
    return results


def _kind(value: Any) -> str:
    return "a list of something else" if isinstance(value, list) else f"a {type(value).__name__}"


class GuardedRetriever(BaseRetriever):
    """A retriever with a guard around it; made by `GuardRunnable.retriever`."""

    _retriever: BaseRetriever = PrivateAttr()
    _filter: DocumentFilter = PrivateAttr()

    @classmethod
    def of(cls, guard: GuardRunnable, retriever: BaseRetriever) -> GuardedRetriever:
        """Put a guard around a retriever.

        Args:
            guard: What judges.
            retriever: The retriever.

        Returns:
            The guarded retriever.
        """
        made = cls(name=retriever.name, tags=retriever.tags, metadata=retriever.metadata)
        made._retriever, made._filter = retriever, DocumentFilter(guard)
        return made

    @property
    def retriever(self) -> BaseRetriever:
        """The retriever itself."""
        return self._retriever

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What guard and retriever read from `configurable`."""
        return [*self._filter.config_specs, *self._retriever.config_specs]

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Retrieve documents that may pass.

        Args:
            input: The query.
            config: The run's config.
            **kwargs: For the retriever.

        Returns:
            The documents.

        Raises:
            UnsupportedValueError: If one of them can't be read.
            EscalationPending: If somebody has yet to decide about one.
        """
        hushed = Hushed.of(config, keeps_messages=True)
        with hushed.retriever(self._retriever.get_name(), input) as shown:
            with hushed_context(keeps_messages=True):
                found = self._retriever.invoke(input, hushed.config, **kwargs)
            passed: list[Document] = self._for(input).invoke(found, own_run(hushed.config))
            shown.output = passed
        return passed

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """`invoke`, without blocking the event loop."""
        hushed = Hushed.of(config, keeps_messages=True)
        async with hushed.aretriever(self._retriever.get_name(), input) as shown:
            with hushed_context(keeps_messages=True):
                found = await self._retriever.ainvoke(input, hushed.config, **kwargs)
            passed: list[Document] = await self._for(input).ainvoke(found, own_run(hushed.config))
            shown.output = passed
        return passed

    def _for(self, query: object) -> DocumentFilter:
        return replace(self._filter, request=query if isinstance(query, str) else None)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return self.invoke(query, {"callbacks": run_manager.get_child()})

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        return await self.ainvoke(query, {"callbacks": run_manager.get_child()})
