"""Generation that is judged in its own pass: prompts before the first token, answers while they are written."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from langchain_core.callbacks import CallbackManager
from langchain_core.runnables import RunnableConfig
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from lec_guard.act.redact import restore
from lec_guard.chain.base import given
from lec_guard.chain.messages import request_of
from lec_guard.chain.plan import Passed, Plan
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.errors import EscalationPending, UnsupportedValueError
from lec_guard.generate.decoding import Decoder
from lec_guard.generate.detector import InsideDetector
from lec_guard.generate.guidance import GuidedCausalLM
from lec_guard.generate.mixing import Guidance
from lec_guard.generate.prompts import NEGATIVE, POSITIVE, PairedPrompts, padded
from lec_guard.generate.reading import Reading
from lec_guard.generate.rendering import Rendered, longest_of, render
from lec_guard.generate.states import Caught
from lec_guard.growing import GrowingStep
from lec_guard.guard import Guard
from lec_guard.step import Origin, Step, Verdict, severest

Conversation = Sequence[Mapping[str, str]]
"""Messages with `role` and `content`, as chat templates take them."""

_NOT_HERE = ("assistant_model", "prompt_lookup_num_tokens", "input_ids", "attention_mask", "inputs_embeds")
"""What `generate` of transformers takes and this one does not: guesses ahead, and prompts that nobody could read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardedAnswer:
    """What came of a conversation.

    Attributes:
        text: What may be shown: the answer, as the policy has it rewritten; the policy's message where it is blocked.
        ids: Tokens of the answer that may be shown; none where it was rewritten or blocked.
        prompt: The severest verdict on the texts of the prompt, there before the first token was drawn.
        output: The verdict on the answer; None where there is none, for the prompt is blocked.
        written: How many tokens the model wrote, whether or not they may be shown.
        streamed: How many tokens went to the streamer before the answer was over.
    """

    text: str
    ids: tuple[int, ...]
    prompt: Verdict
    output: Verdict | None
    written: int
    streamed: int = 0

    @property
    def verdict(self) -> Verdict:
        """The severest of them."""
        return self.prompt if self.output is None else severest([self.prompt, self.output])

    @property
    def blocked(self) -> bool:
        """Whether the answer may not be shown."""
        return self.verdict.blocked


class GuardedCausalLM:
    """A causal model whose `generate` asks a guard, which reads by the model's own layers. Safe to share.

    A prompt is judged when it was read and before a token is drawn, an answer every few tokens and when it is over.
    What is drawn is what the model alone draws, token by token: sampled or not, in batches of which some rows are
    refused. With beams only whole answers are judged, for until then it is open which beam is the answer.

    Args:
        guard: The guard. Its detector is an `InsideDetector`, or has one in it.
        tokenizer: The model's, with a chat template.
        detector: That `InsideDetector`; its model generates.
        guidance: How far answers are steered; None for not at all.
        positive: What the system prompt asks for, with guidance.
        negative: What the negative one asks for.

    Raises:
        UnsupportedValueError: If the tokenizer has no chat template.
    """

    def __init__(
        self,
        guard: Guard,
        tokenizer: PreTrainedTokenizerBase,
        detector: InsideDetector,
        *,
        guidance: Guidance | None = None,
        positive: str = POSITIVE,
        negative: str = NEGATIVE,
    ) -> None:
        self.guard = guard
        self.tokenizer = tokenizer
        self.detector = detector
        self.guidance = guidance
        self._asked = (positive, negative)
        self._view = GuardRunnable(guard).input

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self.detector.model

    @torch.no_grad()
    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        tenant: str | None = None,
        streamer: Any = None,
        **settings: Any,
    ) -> list[GuardedAnswer]:
        """Answer conversations.

        Args:
            conversations: The conversations, the last message of each the user's.
            tenant: Whose policy applies.
            streamer: Takes tokens as they may be shown (`put`, `end`), as transformers' streamers do; for one
                conversation and one answer.
            settings: For transformers' `generate`: `max_new_tokens`, `do_sample`, `num_beams`,
                `num_return_sequences`, `cache_implementation`, `logits_processor` and so on.

        Returns:
            The answers: of each conversation as many as `num_return_sequences`, in order.

        Raises:
            ValueError: If there is no conversation, one is empty, or one is longer than the model reads.
            UnsupportedValueError: If a setting can't be guarded, or a conversation can't be written down.
            PolicyError: If the tenant is unknown, or its policy is wrong.
        """
        for name in _NOT_HERE:
            if settings.get(name) is not None:
                raise UnsupportedValueError(f"{name} does not go with a guard; leave it out")
        if not conversations:
            raise ValueError("there is no conversation")
        several = settings.get("num_return_sequences") or 1
        if streamer is not None and (len(conversations) > 1 or several > 1):
            raise UnsupportedValueError("a streamer takes one answer; give one conversation, or no streamer")
        rows = [self._row(conversation, tenant) for conversation in conversations]
        found = self._answered(rows, streamer, dict(settings))
        again = [at for at, row in enumerate(rows) if row.rewritten is not None]
        if again:
            # What the policy made of a prompt was judged, and is read by the model from its start.
            anew = [replace(self._row(rows[at].rewritten or (), tenant), judged=rows[at].judged) for at in again]
            for at, own in zip(again, _groups(self._answered(anew, streamer, dict(settings)), several), strict=True):
                found[at * several : (at + 1) * several] = own
        return found

    def _row(self, messages: Conversation, tenant: str | None) -> _Row:
        own = list(messages)
        asked = None if self.guidance is None else self._asked[0]
        prompt = render(self.tokenizer, own, asked=asked, longest=longest_of(self.model))
        config: RunnableConfig = {
            # Nobody hears of a run that is none of LangChain's; sinks hear of all.
            "callbacks": CallbackManager(handlers=[], parent_run_id=uuid.uuid4()),
            "configurable": {} if tenant is None else {self._view.tenant_key: tenant},
        }
        plan = self._view.plan([own], [config])
        for error in plan.errors.values():
            raise error
        return _Row(own, prompt, plan, config, request_of(own), tenant)

    def _answered(self, rows: list[_Row], streamer: Any, settings: dict[str, Any]) -> list[GuardedAnswer]:
        model: Any = self.model
        own = {name: value for name, value in settings.items() if hasattr(model.generation_config, name)}
        config, _ = model._prepare_generation_config(settings.get("generation_config"), **own)
        run_settings = {
            name: value for name, value in settings.items() if name not in ("logits_processor", "stopping_criteria")
        }
        with self.detector.tap.catching() as caught:
            run = _Run(self, rows, caught, config, streamer)
            run_settings["logits_processor"] = LogitsProcessorList([*(settings.get("logits_processor") or ()), run])
            run_settings["stopping_criteria"] = StoppingCriteriaList(
                [*(settings.get("stopping_criteria") or ()), _Stops(run)]
            )
            try:
                written: Tensor | None = self._generate(rows, run_settings)
            except _AllRefused:
                written = None
            found = run.answers(written)
        if streamer is not None and rows[0].rewritten is None:
            streamer.end()
        return found

    def _generate(self, rows: Sequence[_Row], settings: dict[str, Any]) -> Tensor:
        model: Any = self.model
        settings = {"return_dict_in_generate": False, **settings}
        if self.guidance is None:
            ids, mask = padded([row.prompt.ids for row in rows], self.tokenizer)
            found = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), **settings)
        else:
            negative = [render(self.tokenizer, row.messages, asked=self._asked[1]) for row in rows]
            prompts = PairedPrompts.of([row.prompt for row in rows], negative, self.tokenizer)
            arguments: dict[str, Any] = {name: own.to(model.device) for name, own in prompts.arguments().items()}
            found = GuidedCausalLM(model, self.guidance).generate(**arguments, **settings)
        return found if isinstance(found, Tensor) else found.sequences


@dataclass(slots=True)
class _Row:
    """A conversation on its way."""

    messages: Conversation
    prompt: Rendered
    plan: Plan
    config: RunnableConfig
    request: str | None
    tenant: str | None
    judged: Passed | None = None
    rewritten: Conversation | None = None
    refused: bool = False

    @property
    def verdict(self) -> Verdict:
        """What was said of the prompt."""
        assert self.judged is not None  # noqa: S101 - nothing is asked of a row before it was judged
        return self.judged.verdict

    @property
    def tokens(self) -> Mapping[str, str]:
        """What stands in the prompt -> what it stands for."""
        return {} if self.judged is None else self.judged.tokens


@dataclass(slots=True)
class _Writing:
    """One answer on its way."""

    row: _Row
    reading: Reading
    growing: GrowingStep | None
    decoder: Decoder
    over: bool = False
    verdict: Verdict | None = None
    written: int = 0
    streamed: int = 0


class _AllRefused(Exception):
    """No row is to be answered: generation ends before a token is drawn."""


class _Run(LogitsProcessor):
    """One call of `generate`: it sees each pass when it is over, and changes no score."""

    def __init__(self, owner: GuardedCausalLM, rows: list[_Row], caught: Caught, config: Any, streamer: Any) -> None:
        self._owner = owner
        self._rows = rows
        self._caught = caught
        self._beams = int(config.num_beams or 1) > 1
        self._several = int(config.num_return_sequences or 1)
        ends = config.eos_token_id
        self._ends = frozenset([] if ends is None else [ends] if isinstance(ends, int) else map(int, ends))
        self._streamer = streamer
        self._writing: list[_Writing] | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Judge what was read since the last pass."""
        states = self._caught.take(len(input_ids))
        if self._writing is None:
            self._begin(input_ids, states)
        elif not self._beams:
            last = {layer: own[:, -1] for layer, own in states.items()}
            for at, (one, token) in enumerate(zip(self._writing, input_ids[:, -1].tolist(), strict=True)):
                if not one.over:
                    self._read(one, token, {layer: own[at : at + 1] for layer, own in last.items()})
        return scores

    def stopped(self, rows: int) -> list[bool]:
        """Of each row of the batch, whether it is not to go on; with beams none: which is the answer is still open."""
        return [False] * rows if self._beams else [one.over for one in self._writing or ()]

    def _begin(self, input_ids: Tensor, states: Mapping[int, Tensor]) -> None:
        each = len(input_ids) // len(self._rows)
        self._writing = []
        for at, row in enumerate(self._rows):
            reading = Reading(row.prompt)
            reading.fill(states, at * each)
            self._judge(row, reading)
            reading.forget()
            if self._streamer is not None and row.rewritten is None:
                self._streamer.put(torch.tensor([row.prompt.ids]))
            for _ in range(1 if self._beams else each):
                self._writing.append(self._written(row))
        if all(row.refused for row in self._rows):
            raise _AllRefused
        if self._beams:
            self._writing = [self._written(row) for row in self._rows for _ in range(self._several)]

    def _judge(self, row: _Row, reading: Reading) -> None:
        """What the guard says of a prompt: it goes on, is refused, or is read once more as it was rewritten."""
        if row.judged is not None:  # as it was rewritten
            return
        with reading.in_force():
            passed = self._owner._view.judge(row.plan, [row.messages], [row.config])[0]
        if isinstance(passed, EscalationPending):
            passed = Passed(replace(passed.verdict, action="block"), row.messages, {})
        row.judged = found = given(passed)
        row.refused = found.verdict.blocked
        if not row.refused and found.value is not row.messages:
            row.rewritten, row.refused = found.value, True

    def _written(self, row: _Row) -> _Writing:
        reading = Reading(row.prompt)
        growing = None
        if not row.refused and not self._beams:
            with reading.in_force():
                growing = self._owner.guard.begin(_answer_of(row, ""), row.tenant)
        return _Writing(row, reading, growing, Decoder(self._owner.tokenizer), over=row.refused)

    def _read(self, one: _Writing, token: int, states: Mapping[int, Tensor]) -> None:
        """A token that the layers have read."""
        if token in self._ends:
            one.over = True
            return
        piece = one.decoder.add(token)
        one.reading.answer.write(token, piece)
        one.reading.answer.add(states)
        one.written += 1
        assert one.growing is not None  # noqa: S101 - only refused rows have none
        with one.reading.in_force():
            progress = self._owner.guard.feed(one.growing, piece)
        if progress.blocked:
            one.over, one.verdict = True, progress.verdict
        elif self._streamer is not None and not one.row.tokens:
            self._stream(one, progress.passed)

    def _stream(self, one: _Writing, characters: int) -> None:
        stops, ids = one.reading.answer.stops, one.reading.answer.ids
        while one.streamed < len(ids) and stops[one.streamed] <= characters:
            self._streamer.put(torch.tensor([ids[one.streamed]]))
            one.streamed += 1

    def answers(self, written: Tensor | None) -> list[GuardedAnswer]:
        """What came of each row.

        Args:
            written: Prompts and answers, as `generate` gave them; None where no row was answered.
        """
        if written is None:
            return [_refused(row) for row in self._rows for _ in range(self._several)]
        # Without what guidance put before the prompts to make them as wide as the negative ones.
        width = max(len(row.prompt.ids) for row in self._rows)
        return [
            self._answer(one, tokens)
            for one, tokens in zip(self._writing or (), written[:, width:].tolist(), strict=True)
        ]

    def _answer(self, one: _Writing, tokens: list[int]) -> GuardedAnswer:
        if one.row.refused:
            return _refused(one.row)
        if one.verdict is not None:
            return _blocked(one, one.verdict)
        end = next((at for at, token in enumerate(tokens) if token in self._ends), len(tokens))
        for token in tokens[one.written : end]:  # drawn, and read by no layer: the last one, or with beams all
            one.reading.answer.write(token, one.decoder.add(token))
            one.written += 1
        one.reading.answer.close(one.decoder.rest())
        guard, text = self._owner.guard, one.reading.answer.text
        with one.reading.in_force():
            if one.growing is None:
                outcome = guard.apply(_answer_of(one.row, text), one.row.tenant)
            else:
                outcome = guard.finish(one.growing, text)[0]
        if outcome.text is None:
            return _blocked(one, outcome.verdict)
        shown = restore(outcome.text, one.row.tokens) if one.row.tokens else outcome.text
        kept = tuple(one.reading.answer.ids) if shown == text else ()
        if self._streamer is not None:
            for token in kept[one.streamed :] if kept or not shown else self._anew(shown):
                self._streamer.put(torch.tensor([token]))
        return GuardedAnswer(
            text=shown,
            ids=kept,
            prompt=one.row.verdict,
            output=outcome.verdict,
            written=one.written,
            streamed=one.streamed,
        )

    def _anew(self, text: str) -> list[int]:
        """Tokens of what an answer was rewritten to."""
        return list(self._owner.tokenizer.encode(text, add_special_tokens=False))


class _Stops(StoppingCriteria):
    """Ends the rows that are not to go on; those beside them do."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:  # noqa: ARG002
        """Of each row, whether it is over."""
        return torch.tensor(self._run.stopped(len(input_ids)), device=input_ids.device, dtype=torch.bool)


def _answer_of(row: _Row, text: str) -> Step:
    return Step(stage="output", text=text, context=row.request, origin=Origin(trust="model"))


def _refused(row: _Row) -> GuardedAnswer:
    return GuardedAnswer(text=row.verdict.message or "", ids=(), prompt=row.verdict, output=None, written=0)


def _blocked(one: _Writing, verdict: Verdict) -> GuardedAnswer:
    return GuardedAnswer(
        text=verdict.message or "",
        ids=(),
        prompt=one.row.verdict,
        output=verdict,
        written=one.written,
        streamed=one.streamed,
    )


def _groups(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
