"""Text that a local model writes on a thread of its own, never far ahead of who reads it.

`generate` of transformers calls, and does not yield. Here it runs on a thread that waits whenever it is a few tokens
ahead of its reader, so that a reader who stops reading stops the writing too, and nothing is computed that nobody asks
for. What ends an answer (a token, a text, a limit) is found on that thread, token by token: how fast the reader is
changes neither what is written nor how much of it.
"""

from __future__ import annotations

import contextvars
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lec_guard.generate.decoding import Decoder, tokens_of
from lec_guard.generate.guidance import GuidedCausalLM

FinishReason = Literal["stop", "length", "stopped"]
"""`stop`: the model ended its answer, or wrote a stop string. `length`: it wrote all the tokens that it may.
`stopped`: somebody ended it, or a stopping criterion did."""

_OWN = (
    *("streamer", "stop_strings", "num_beams", "num_return_sequences", "max_length", "return_dict_in_generate"),
    *("assistant_model", "prompt_lookup_num_tokens"),
)
"""Settings of `generate` that make of it something else than one text, token by token."""

_PATIENCE = 5.0
"""Seconds that the garbage collector waits for a thread; it may hold a lock that the thread needs."""


class Writing:
    """One answer while it is written; an iterator of pieces of text, and a context manager that ends it.

    Args:
        model: Writes it: a causal model of transformers, or a guided one.
        tokenizer: Of the model.
        inputs: One prompt, as `generate` takes it: `input_ids` of shape (1, tokens), `attention_mask`, and the
            `negative_...` ones of a guided model (`PairedPrompts.arguments()`).
        max_new_tokens: Tokens that it may have.
        stop: Texts that end it and are no part of it. One that is a special token's is that token.
        ahead: Tokens that may be written before anybody reads them.
        keep: Special tokens whose text is given; that of others is left out.
        logits_processor: After those that `generate` makes of the settings. They run on the writing thread.
        stopping_criteria: More of what ends it.
        settings: For `generate`: `do_sample`, `temperature`, `top_p`, `eos_token_id` and so on.

    Attributes:
        prompt_tokens: Tokens of the prompt; of a guided model, those of the positive one.
        ends: Tokens that end it.

    Raises:
        ValueError: If the prompt is not one, a limit leaves no room for a token, or a setting makes more than one text.
    """

    def __init__(
        self,
        model: PreTrainedModel | GuidedCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        inputs: Mapping[str, Tensor],
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        ahead: int = 4,
        keep: Collection[str] = (),
        logits_processor: Sequence[LogitsProcessor] = (),
        stopping_criteria: Sequence[StoppingCriteria] = (),
        **settings: Any,
    ) -> None:
        ids = inputs.get("input_ids")
        if ids is None or ids.ndim != 2 or len(ids) != 1 or not ids.numel():
            shape = None if ids is None else tuple(ids.shape)
            raise ValueError(f"input_ids of shape {shape} is not one prompt; it is (1, tokens)")
        if max_new_tokens < 1 or ahead < 1:
            raise ValueError(
                f"max_new_tokens={max_new_tokens} and ahead={ahead} let nothing be written; both are 1 or more"
            )
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise ValueError(f"stop is {stop!r}; it is a list of texts that are not empty")
        for name in _OWN:
            if name in settings:
                raise ValueError(f"{name} does not go with an answer that is read while it is written; leave it out")
        self.prompt_tokens = int(ids.shape[1])
        self._iterated = threading.Lock()
        self._shared = _Shared(ahead)
        self.ends = _ends(model, settings) | tokens_of(stop, tokenizer)
        end = _End(
            Decoder(tokenizer, keep),
            stop,
            ends=self.ends,
            most=max_new_tokens,
            others=stopping_criteria,
            shared=self._shared,
        )
        writer: Any = model
        self._generate: Callable[[], object] | None = partial(
            writer.generate,
            **inputs,
            **settings,
            max_new_tokens=max_new_tokens,
            num_beams=1,
            logits_processor=LogitsProcessorList(list(logits_processor)),
            stopping_criteria=StoppingCriteriaList([end]),
        )
        # The thread knows what it shares with this object and not the object itself, so that one that nobody holds
        # any more is collected, and its thread ended. Threads that are no daemons are waited for before an
        # interpreter that ends lets anything be finalised, so this one is a daemon, and never left alone.
        self._finalizer = weakref.finalize(self, self._shared.end, _PATIENCE)

    @property
    def ids(self) -> list[int]:
        """Tokens that were read so far, special ones and the one that ended the answer among them."""
        with self._shared.changed:
            return list(self._shared.read)

    @property
    def written_tokens(self) -> int:
        """How many tokens were read so far; after the end, what the answer has."""
        with self._shared.changed:
            return len(self._shared.read)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None before it did."""
        with self._shared.changed:
            return self._shared.reason

    def __iter__(self) -> Self:
        """Itself: it is written once."""
        return self

    def __next__(self) -> str:
        """The next piece of text, never empty; the first call starts the writing.

        Raises:
            StopIteration: If nothing more is written.
            Exception: What the model, or what was handed to it, raised on its thread.
        """
        with self._iterated:
            if self._generate is not None:
                generate, self._generate = self._generate, None
                self._shared.start(generate)
            piece = self._shared.take()
        if piece is None:
            raise StopIteration
        return piece

    def cancel(self) -> None:
        """End it within a token, and do not wait for that."""
        self._shared.cancel()

    def stop(self) -> None:
        """End it within a token, and wait until its thread has ended. Can be called from anywhere, and twice."""
        self._shared.end(None)

    close = stop

    def __enter__(self) -> Self:
        """Read it in a `with`, so that it has ended when that ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See `stop`."""
        self.stop()


class _Shared:
    """What the writing thread and its reader share."""

    def __init__(self, ahead: int) -> None:
        # Its lock can be taken twice by one thread: the garbage collector may end a writing anywhere.
        self.changed = threading.Condition(threading.RLock())
        self.read: list[int] = []
        self.reason: FinishReason | None = None
        self._ahead = ahead
        self._waiting: deque[tuple[int, str]] = deque()
        self._rest = ""
        self._found: FinishReason | None = None
        self._error: BaseException | None = None
        self._cancelled = self._done = False
        self._thread: threading.Thread | None = None

    def start(self, generate: Callable[[], object]) -> None:
        """Begin to write, as the caller's context has it."""
        with self.changed:
            if self._cancelled:
                return
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(self._run, generate), name="lec-guard-writing")
            thread.daemon = True
            thread.start()
            self._thread = thread

    def _run(self, generate: Callable[[], object]) -> None:
        error: BaseException | None = None
        try:
            generate()
        except BaseException as raised:  # noqa: BLE001 - handed to the reader, whatever it is
            error = raised
        with self.changed:
            self._error, self._done = None if self._cancelled else error, True
            self.changed.notify_all()

    # On the writing thread.

    def give(self, token: int, text: str) -> bool:
        """Hand on a token with what it made readable, and wait until there is room for another.

        Returns:
            Whether the reader wants no more.
        """
        with self.changed:
            if not self._cancelled:
                self._waiting.append((token, text))
                self.changed.notify_all()
                self.changed.wait_for(lambda: self._cancelled or len(self._waiting) < self._ahead)
            return self._cancelled

    def close(self, token: int, text: str, reason: FinishReason) -> None:
        """Hand on the last token. Nobody waits for room for another."""
        with self.changed:
            if not self._cancelled:
                self._waiting.append((token, text))
                self._found = reason
                self.changed.notify_all()

    # On the reader's.

    def take(self) -> str | None:
        """The next piece that is not empty, or None at the end."""
        with self.changed:
            while self.reason is None:
                self.changed.wait_for(lambda: self._waiting or self._done or self._cancelled)
                if self._cancelled:
                    self.reason = "stopped"
                elif self._waiting:
                    token, text = self._waiting.popleft()
                    self.read.append(token)
                    self.changed.notify_all()
                    if text:
                        return text
                else:
                    self.reason = self._found or "stopped"
            error, self._error = self._error, None
        self._join(None)
        if error is None:
            return None
        # As in a generator: it would look like the end of the text.
        if isinstance(error, StopIteration):
            raise RuntimeError("the model raised StopIteration") from error
        raise error

    def cancel(self) -> None:
        with self.changed:
            if self.reason is None:
                self.reason = "stopped"
            self._cancelled = True
            self._error = None
            self._waiting.clear()
            self.changed.notify_all()

    def end(self, patience: float | None) -> None:
        self.cancel()
        self._join(patience)

    def _join(self, patience: float | None) -> None:
        with self.changed:
            thread = self._thread
        # A logits processor may end its own writing, and the garbage collector run on any thread.
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience)


class _End(StoppingCriteria):
    """Sees each token as it is written, hands on its text, and says whether it was the last.

    A criterion and not a streamer: those see a token after the criteria had their say, and one more would be written.
    The others are asked from here, so that what ended an answer is known.
    """

    def __init__(
        self,
        decoder: Decoder,
        stop: Sequence[str],
        *,
        ends: Collection[int],
        most: int,
        others: Sequence[StoppingCriteria],
        shared: _Shared,
    ) -> None:
        self._decoder = decoder
        self._stops = _Stops(stop)
        self._ends = frozenset(ends)
        self._left = most
        self._others = list(others)
        self._shared = shared
        self._ended = False

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        # Where a device is asked late, one more token is written than was wanted, and left out here.
        if not self._ended:
            self._ended = self._is_last(int(input_ids[0, -1]), input_ids, scores, more)
        return torch.full((len(input_ids),), self._ended, dtype=torch.bool, device=input_ids.device)

    def _is_last(self, token: int, input_ids: Tensor, scores: Any, more: Mapping[str, Any]) -> bool:
        self._left -= 1
        text, stopped = self._stops.add(self._decoder.add(token))
        reason: FinishReason | None = None
        if stopped or token in self._ends:
            reason = "stop"
        elif any([bool(torch.as_tensor(one(input_ids, scores, **more)).all()) for one in self._others]):  # noqa: C419 - each of them counts
            reason = "stopped"
        elif not self._left:
            reason = "length"
        if reason is None:
            return self._shared.give(token, text)
        if not stopped:
            rest, stopped = self._stops.add(self._decoder.rest())
            text += rest if stopped else rest + self._stops.rest()
            reason = "stop" if stopped else reason
        self._shared.close(token, text, reason)
        return True


class _Stops:
    """Text as it comes, up to the first stop string; what may be the beginning of one is kept back."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """What is no part of a stop string, and whether there was one."""
        self._held += text
        # The one that is complete first: so what is cut does not depend on how many characters come at once.
        found = min(
            ((at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0),
            default=None,
        )
        if found is not None:
            safe, self._held = self._held[: found[1]], ""
            return safe, True
        kept = max((_begun(self._held, stop) for stop in self._stop), default=0)
        safe, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return safe, False

    def rest(self) -> str:
        rest, self._held = self._held, ""
        return rest


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text begin a stop string."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)


def _ends(model: PreTrainedModel | GuidedCausalLM, settings: Mapping[str, Any]) -> frozenset[int]:
    """Tokens that end an answer, as `generate` takes them from settings or from the model's own."""
    config: Any = settings.get("generation_config") or model.generation_config
    ids: Any = settings.get("eos_token_id", config.eos_token_id)
    if ids is None:
        return frozenset()
    return frozenset(torch.as_tensor(ids).flatten().tolist())
