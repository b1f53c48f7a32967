"""A step whose text comes bit by bit: what a guard lets go of it, and what it says in the end."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lec_guard import BypassEvent, ErrorEvent, Guard, LayerDetector, Outcome, PolicyError, Scores, Step, VerdictEvent
from lec_guard.growing import GrowingStep, Progress
from lec_guard.testing import KeywordDetector
from tests.conftest import write_policies
from tests.test_guard import Recorder
from tests.test_long_texts import HIDDEN, document, paragraphs

HOLD_BACK = 20
RULES = """
rules:
  - {name: attack, stages: [input, output, tool_output], head: words, labels: [attack], threshold: 0.5, action: block}
  - {name: rude, stages: [output], head: words, labels: [rude], threshold: 0.5, action: flag}
"""
POLICY = f"message: No.\nhold_back: {HOLD_BACK}\n{RULES}"
ANSWER = Step(stage="output", text="")
PLAIN = "The weather is fine, and will be so until the end of the week."


class Words(KeywordDetector):
    """Finds words, and may fail, or not come back, when it has seen so many characters."""

    def __init__(self) -> None:
        super().__init__({"words": {"attack": ["attack"], "rude": ["darn"], "secret": ["secret"]}})
        self.fails_at: int | None = None
        self.sticks_at: int | None = None
        self.released = threading.Event()
        self.looks = 0

    def scored(self, text: str, before: Any = None, at: int = 0) -> Any:
        if before is not None:
            self.looks += 1
            if self.fails_at is not None and at + len(text) >= self.fails_at:
                raise RuntimeError("out of memory")
            if self.sticks_at is not None and at + len(text) >= self.sticks_at:
                assert self.released.wait(30)
        return super().scored(text, before, at)


@pytest.fixture
def words() -> Iterator[Words]:
    made = Words()
    yield made
    made.released.set()


Make = Callable[..., Guard]


@pytest.fixture
def make(tmp_path: Path, words: Words) -> Iterator[Make]:
    made: list[Guard] = []

    def build(policy: str = POLICY, **files: str) -> Guard:
        named = {"default.yaml": policy, **{f"{name}.yaml": text for name, text in files.items()}}
        folder = write_policies(tmp_path / f"policies{len(made)}", named)
        guard = Guard.from_policies(folder, detector=words, sinks=[recorder := Recorder()])
        guard.told = recorder.events  # type: ignore[attr-defined]
        made.append(guard)
        return guard

    yield build
    words.released.set()
    for guard in made:
        guard.close()


def stream(
    guard: Guard, text: str, step: Step = ANSWER, size: int = 1, how: str = "sync"
) -> tuple[str, Progress, list[Outcome] | None]:
    """What goes on before the text is over, how far that was, and what came of it in the end."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    def run() -> tuple[GrowingStep, list[Outcome] | None]:
        growing = guard.begin(step)
        if any(guard.feed(growing, piece).blocked for piece in pieces):
            return growing, None
        return growing, guard.finish(growing, text)

    async def arun() -> tuple[GrowingStep, list[Outcome] | None]:
        growing = await guard.abegin(step)
        for piece in pieces:
            if (await guard.afeed(growing, piece)).blocked:
                return growing, None
        return growing, await guard.afinish(growing, text)

    growing, outcomes = run() if how == "sync" else asyncio.run(arun())
    return text[: growing.progress.passed], growing.progress, outcomes


ways = pytest.mark.parametrize("how", ["sync", "async"])


# --- what passes, and what does not


@ways
def test_what_is_harmless_goes_on_while_it_comes(make: Make, how: str) -> None:
    guard = make()
    gone, progress, outcomes = stream(guard, PLAIN, how=how)
    assert gone == PLAIN[:-HOLD_BACK]
    assert progress.verdict is not None
    assert progress.verdict.action == "allow"
    assert outcomes is not None
    assert (outcomes[0].text, outcomes[0].verdict.action) == (PLAIN, "allow")
    assert [type(event) for event in guard.told] == [VerdictEvent]


@ways
@pytest.mark.parametrize("at", range(0, len(PLAIN), 3))
@pytest.mark.parametrize("size", [1, 2, 5, 64])
def test_no_character_of_an_attack_goes_on(make: Make, how: str, at: int, size: int) -> None:
    guard = make()
    text = f"{PLAIN[:at]} attack {PLAIN[at:]}"
    gone, progress, outcomes = stream(guard, text, size=size, how=how)
    assert outcomes is None
    assert progress.blocked
    assert len(gone) <= at + 1
    (event,) = guard.told
    assert event.verdict == progress.verdict
    assert (event.verdict.rule, event.verdict.message) == ("attack", "No.")
    (span,) = event.verdict.spans
    assert text[span.start : span.end] == "attack"


def test_nothing_is_read_or_told_after_a_block(make: Make, words: Words) -> None:
    guard = make()
    growing = guard.begin(ANSWER)
    assert guard.feed(growing, "attack").blocked
    looks = words.looks
    assert guard.feed(growing, " and more").blocked
    assert (words.looks, len(guard.told)) == (looks, 1)


@given(st.text("atck drn.", max_size=60), st.integers(1, 9))
@settings(deadline=None, max_examples=150)
def test_the_verdict_in_the_end_is_that_of_the_whole_text(tmp_path_factory: Any, text: str, size: int) -> None:
    folder = write_policies(tmp_path_factory.getbasetemp() / "whole", {"default.yaml": POLICY})
    guard = Guard.from_policies(folder, detector=Words())
    whole = guard.apply(dataclasses.replace(ANSWER, text=text))
    _, progress, outcomes = stream(guard, text, size=size)
    if outcomes is None:
        assert whole.verdict.blocked
        assert progress.verdict is not None
        assert dataclasses.replace(progress.verdict, ms=0) == dataclasses.replace(whole.verdict, ms=0)
    else:
        (outcome,) = outcomes
        assert outcome.text == whole.text
        assert dataclasses.replace(outcome.verdict, ms=0) == dataclasses.replace(whole.verdict, ms=0)


def test_one_text_may_be_several_steps(make: Make, words: Words) -> None:
    guard = make()
    both = [Step(stage=stage, text="") for stage in ("input", "output")]
    growing = guard.begin(both)
    guard.feed(growing, PLAIN)
    assert words.looks == 1
    outcomes = guard.finish(growing, PLAIN + " darn")
    assert [outcome.verdict.stage for outcome in outcomes] == ["input", "output"]
    assert [outcome.verdict.action for outcome in outcomes] == ["allow", "flag"]


def test_the_policy_that_was_in_force_when_it_began_counts_until_it_ends(make: Make, tmp_path: Path) -> None:
    guard = make()
    growing = guard.begin(ANSWER)
    guard.feed(growing, PLAIN)
    file = tmp_path / "policies0" / "default.yaml"
    file.write_text(POLICY.replace("action: block", "action: flag"))
    guard.reload()
    assert guard.apply(dataclasses.replace(ANSWER, text="attack")).verdict.action == "flag"
    assert guard.feed(growing, "attack").blocked


def test_an_unknown_tenant_is_an_error_when_it_begins(make: Make) -> None:
    with pytest.raises(PolicyError):
        make().begin(ANSWER, "nobody")


# --- what is held back whole


WHOLE = {
    "nothing is said": POLICY.replace(f"hold_back: {HOLD_BACK}\n", ""),
    "all is said": POLICY.replace(str(HOLD_BACK), "all"),
    "the floor says nothing": POLICY,
    "a text is replaced": f"""{POLICY}
  - {{name: s, stages: [output], head: words, labels: [secret], threshold: 0.5, action: rewrite, rewrite: other}}
rewrite: {{other: {{kind: replace, text: Something else.}}}}
""",
    "a text is put into quarantine": f"{POLICY}\nrewrite: {{away: {{kind: quarantine}}}}\n",
}


@pytest.mark.parametrize("why", WHOLE)
def test_a_text_is_held_back_whole_where(make: Make, words: Words, why: str) -> None:
    floor = {"floor": RULES} if why == "the floor says nothing" else {}
    guard = make(WHOLE[why], **floor)
    growing = guard.begin(ANSWER)
    assert growing.is_held_whole
    gone, progress, outcomes = stream(guard, f"{PLAIN} darn", size=9)
    assert (gone, progress, words.looks) == ("", Progress(), 0)
    assert outcomes is not None
    assert outcomes[0].verdict.action == "flag"


def test_the_most_that_a_policy_or_the_floor_says_is_held_back(make: Make) -> None:
    guard = make(floor=f"hold_back: {HOLD_BACK + 10}\n{RULES}")
    assert stream(guard, PLAIN)[0] == PLAIN[: -HOLD_BACK - 10]


def test_a_detector_that_reads_whole_texts_alone_is_asked_in_the_end(tmp_path: Path) -> None:
    class Plain:
        detector_id = "plain"
        labels = {"words": ("attack", "rude")}  # noqa: RUF012

        def score(self, steps: Any, *, keys: Any = None) -> Any:
            return KeywordDetector({"words": {"attack": ["attack"], "rude": ["darn"]}}).score(steps)

    guard = Guard.from_policies(write_policies(tmp_path, {"default.yaml": POLICY}), detector=Plain())
    assert guard.begin(ANSWER).is_held_whole
    outcomes = stream(guard, "an attack")[2]
    assert outcomes is not None
    assert outcomes[0].verdict.blocked


def test_an_allow_list_holds_for_whole_texts(make: Make) -> None:
    guard = make(f"{POLICY}\nallow: [{{name: known, stages: [output], exact: ['No attack is known of here.']}}]")
    gone, progress, outcomes = stream(guard, "No attack is known of here.")
    assert (gone, progress.blocked) == ("", False)
    assert outcomes is not None
    assert outcomes[0].verdict.rule == "allow:known"
    # Its beginning is on the list; the whole of it is not.
    gone, progress, outcomes = stream(guard, "No attack is known of here. " + PLAIN)
    assert gone == ""
    assert outcomes is not None
    assert outcomes[0].verdict.blocked


def test_a_list_that_a_beginning_is_on_lets_nothing_go(make: Make) -> None:
    guard = make(f"{POLICY}\nallow: [{{name: words, stages: [output], regex: ['[A-Za-z ]*']}}]")
    gone, _, outcomes = stream(guard, f"attack {PLAIN} 7")
    assert gone == ""
    assert outcomes is not None
    assert outcomes[0].verdict.blocked


# --- rewrites


REDACT = f"""{POLICY}
  - {{name: s, stages: [output], head: words, labels: [secret], threshold: 0.5, action: rewrite, rewrite: out}}
rewrite: {{out: {{kind: drop_spans}}}}
"""


@ways
def test_what_did_not_go_on_is_rewritten(make: Make, how: str) -> None:
    guard = make(REDACT)
    text = f"{PLAIN} It is a secret. {PLAIN} {PLAIN}"
    gone, progress, outcomes = stream(guard, text, how=how)
    assert len(gone) <= text.index("secret")
    assert progress.verdict is not None
    assert progress.verdict.action == "rewrite"
    assert outcomes is not None
    assert outcomes[0].text is not None
    assert "secret" not in outcomes[0].text
    assert outcomes[0].text.startswith(gone)
    assert len(gone) > 20


def test_a_block_behind_what_is_to_be_rewritten_stops_it(make: Make) -> None:
    text = f"{PLAIN} It is a secret. {PLAIN} attack"
    gone, progress, outcomes = stream(make(REDACT), text)
    assert outcomes is None
    assert progress.blocked
    assert len(gone) <= text.index("secret")


class Fading:
    """Finds a secret once, and then no more, as a score falls when harmless text follows."""

    detector_id = "fading"
    labels = {"words": ("attack", "rude", "secret")}  # noqa: RUF012

    def __init__(self) -> None:
        self.passed = 0
        self.came = ""

    def begin(self, step: Step, *, key: Any = None, hold_back: int) -> Fading:
        return self

    def add(self, text: str) -> bool:
        self.came += text
        return True

    def scores(self) -> Scores:
        found = float(self.came.endswith("secret"))
        self.passed = len(self.came) - 10
        by_head = {"words": {"attack": 0.0, "rude": 0.0, "secret": found}}
        return Scores(by_head=by_head, detector_id="fading", backend="python")

    def finish(self, step: Step) -> Scores:
        return self.scores()

    def score(self, steps: Any, *, keys: Any = None) -> list[Scores]:
        return [self.scores() for _ in steps]


def test_what_was_to_be_rewritten_once_does_not_go_when_the_score_falls(tmp_path: Path) -> None:
    guard = Guard.from_policies(write_policies(tmp_path, {"default.yaml": REDACT}), detector=Fading())
    text = f"{PLAIN} secret {PLAIN}"
    gone, progress, _ = stream(guard, text)
    assert progress.verdict is not None
    assert progress.verdict.action == "allow"
    assert gone == text[: text.index("secret") + 5 - 10]


def test_what_went_on_can_t_be_rewritten(make: Make) -> None:
    guard = make(REDACT)
    growing = guard.begin(ANSWER)
    guard.feed(growing, PLAIN)
    (outcome,) = guard.finish(growing, "secret" + PLAIN)
    assert outcome.text is None


# --- what fails


@ways
@pytest.mark.parametrize("cause", ["error", "timeout", "budget"])
@pytest.mark.parametrize("action", ["block", "flag", "allow"])
def test_fail_decides_when_a_look_fails_and_nothing_more_goes_on(
    make: Make, words: Words, how: str, cause: str, action: str
) -> None:
    limits = {"timeout": ", timeout_ms: 150", "budget": ", max_chars: 50"}.get(cause, "")
    guard = make(f"{POLICY}\nfail: {{output: {{{cause}: {action}{limits}}}}}")
    words.fails_at = 50 if cause == "error" else None
    words.sticks_at = 50 if cause == "timeout" else None
    text = f"{PLAIN} {PLAIN}"
    growing = guard.begin(ANSWER)
    gone = 0
    for came, letter in enumerate(text):  # noqa: B007
        progress = guard.feed(growing, letter) if how == "sync" else asyncio.run(guard.afeed(growing, letter))
        gone = max(gone, progress.passed)
        if progress.blocked:
            break
    assert gone <= 50 - HOLD_BACK
    if action == "block":
        assert came <= 55
        assert progress.verdict is not None
        assert progress.verdict.cause == cause
        assert [type(event) for event in guard.told] == [VerdictEvent, ErrorEvent]
        return
    assert growing.is_held_whole
    words.fails_at = words.sticks_at = None
    words.released.set()
    # In the end the whole of it is read as any text is.
    (outcome,) = guard.finish(growing, text)
    assert outcome.verdict.action == (action if cause == "budget" else "allow")
    assert (BypassEvent in map(type, guard.told)) == (cause == "budget")


def test_a_stream_s_verdict_says_how_long_all_looks_took(make: Make, words: Words) -> None:
    guard = make()
    growing = guard.begin(ANSWER)
    guard.feed(growing, PLAIN)
    assert growing.spent_ms > 0
    (outcome,) = guard.finish(growing, PLAIN)
    assert outcome.verdict.ms > growing.spent_ms


# --- with the detector as shipped


@pytest.mark.parametrize("at", [0, 6, 30])
@pytest.mark.parametrize("size", [1, 7, 400])
def test_no_character_of_an_attack_goes_on_by_the_embedded_detector(
    tmp_path: Path, embedded: LayerDetector, at: int, size: int
) -> None:
    text = """
        hold_back: 64
        rules: [{name: injection, stages: [output], head: injection, threshold: 0.5, action: block}]
    """
    guard = Guard.from_policies(write_policies(tmp_path, {"default.yaml": text}), detector=embedded)
    sentences = document(40)
    answer = paragraphs([*sentences[:at], HIDDEN, *sentences[at:]])
    gone, progress, _ = stream(guard, answer, size=size)
    assert progress.blocked
    assert len(gone) <= answer.index(HIDDEN)
    assert len(gone) > answer.index(HIDDEN) - 1500
