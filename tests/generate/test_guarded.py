"""Generation that is judged in its own pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lec_guard import Guard, LayerDetector, Step
from lec_guard.detect.windows import WindowSpec
from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.detector import InsideDetector
from lec_guard.generate.guarded import GuardedAnswer, GuardedCausalLM
from lec_guard.generate.guidance import GuidedCausalLM
from lec_guard.generate.mixing import Guidance
from lec_guard.generate.prompts import padded, paired
from lec_guard.generate.rendering import render
from lec_guard.observe.events import VerdictEvent
from tests.generate.inside import SYSTEM, Inside, inside, said
from tests.generate.tiny import EOS, KINDS

NEVER = 1.0
WORDS_ONLY = {"suppress_tokens": [0, 1, 2, 3, 4, 5, 6]}
"""Random models write special tokens as readily as words."""
SHORT = WindowSpec(size=4, stride=2, least=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inside]:
    return {kind: inside(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def conversation(seed: int, *, system: bool = True, bad: str = "") -> list[dict[str, str]]:
    own = [{"role": "user", "content": f"{said(seed, count=4 + seed % 3)} {bad}".strip()}]
    return [{"role": "system", "content": SYSTEM}, *own] if system else own


def policy(folder: Path, *, attack: float = 0.5, harm: float = 0.5, hold_back: object = "all", more: str = "") -> Path:
    path = folder / f"policy-{attack}-{harm}-{hold_back}-{len(more)}.yaml"
    path.write_text(
        f"""
message: No.
hold_back: {hold_back}
rules:
  - {{name: attack, stages: [input], head: attack, threshold: {attack}, action: block}}
  - {{name: harm, stages: [output], head: harm, threshold: {harm}, action: block}}
{more}""",
        encoding="utf-8",
    )
    return path


class Sink:
    def __init__(self) -> None:
        self.events: list[object] = []

    def emit(self, event: object) -> None:
        self.events.append(event)


def guarded(
    one: Inside, tmp: Path, *, tokens: tuple[int, ...] = (), every: int = 4, sink=None, guidance=None, **said_by
):
    """A guarded model: `attack` is said of bad words in prompts, `harm` of some tokens in answers."""
    user = one.bundle(f"user-{tmp.name}")
    answer = one.bundle(f"answer-{tmp.name}", role="assistant", head="harm", tokens=tokens, window=SHORT)
    detector = InsideDetector.load(one.model, one.tokenizer, user, answer, every=every)
    guard = Guard.from_policies(policy(tmp, **said_by), detector=detector, sinks=[] if sink is None else [sink])
    return GuardedCausalLM(guard, one.tokenizer, detector, guidance=guidance)


def plain(one: Inside, conversations, **settings) -> list[tuple[int, ...]]:
    """What the model alone writes, up to the end of each answer."""
    ids, mask = padded([render(one.tokenizer, own).ids for own in conversations], one.tokenizer)
    torch.manual_seed(3)
    found = one.model.generate(input_ids=ids, attention_mask=mask, **settings)
    return [upto(row) for row in found[:, ids.shape[1] :].tolist()]


def upto(tokens: list[int]) -> tuple[int, ...]:
    return tuple(tokens[: tokens.index(EOS)]) if EOS in tokens else tuple(tokens)


def answered(model: GuardedCausalLM, conversations, **settings) -> list[GuardedAnswer]:
    torch.manual_seed(3)
    return model.generate(conversations, **settings)


WAYS = {
    "greedy": {},
    "sampled": {"do_sample": True, "temperature": 0.9},
    "static": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "several": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "beams, several": {"num_beams": 3, "num_return_sequences": 2},
    "penalty": {"repetition_penalty": 1.3},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_allowed_is_what_the_model_alone_writes(made, tmp_path, kind, way):
    talk = [conversation(seed, system=seed % 2 == 0) for seed in range(3)]
    settings = {"max_new_tokens": 12, **WAYS[way]}
    found = answered(guarded(made[kind], tmp_path, attack=NEVER, harm=NEVER), talk, **settings)
    assert [one.ids for one in found] == plain(made[kind], talk, **settings)
    for one in found:
        assert not one.blocked
        assert one.text == made[kind].tokenizer.decode(list(one.ids), skip_special_tokens=True)


@pytest.mark.parametrize("way", ["greedy", "sampled", "static", "several", "beams"])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_refused_row_changes_nothing_for_those_beside_it(made, tmp_path, kind, way):
    talk = [conversation(1), conversation(2, bad="poison steal secret hurt " * 3), conversation(3)]
    settings = {"max_new_tokens": 10, **WAYS[way]}
    found = answered(guarded(made[kind], tmp_path, harm=NEVER), talk, **settings)
    alone = plain(made[kind], talk, **settings)
    several = len(found) // 3
    for at, (one, ids) in enumerate(zip(found, alone, strict=True)):
        if at // several == 1:
            assert (one.blocked, one.text, one.ids, one.written, one.output) == (True, "No.", (), 0, None)
            assert one.prompt.rule == "attack"
        else:
            assert (one.blocked, one.ids) == (False, ids)


def test_no_token_is_drawn_where_all_are_refused(made, tmp_path, monkeypatch):
    one, passes = made["llama"], []
    model = guarded(one, tmp_path)
    hook = one.model.register_forward_hook(lambda *_: passes.append(1))
    drawn = []
    monkeypatch.setattr(torch, "argmax", lambda *_, **__: drawn.append(1))
    try:
        found = model.generate([conversation(2, bad="poison " * 12)], max_new_tokens=10)
    finally:
        hook.remove()
    assert found[0].blocked
    assert (len(passes), drawn) == (1, [])


@pytest.mark.parametrize("system", [True, False])
@pytest.mark.parametrize("blocks", [((0, "mean"),), ((2, "mean"), (1, "max")), ((3, "last"),), ((2, "first"),)])
@pytest.mark.parametrize("kind", KINDS)
def test_prompts_score_in_the_pass_as_a_detector_scores_them(made, tmp_path, kind, blocks, system):
    one = made[kind]
    bundle = one.bundle(f"equal-{tmp_path.name}", blocks=blocks)
    detector, sink = InsideDetector.load(one.model, one.tokenizer, bundle), Sink()
    rules = "rules: [{name: attack, stages: [input], head: attack, threshold: 1.0, action: block}]\n"
    (tmp_path / "p.yaml").write_text(rules)
    guard = Guard.from_policies(tmp_path / "p.yaml", detector=detector, sinks=[sink])
    talk = [conversation(seed, system=system, bad="poison" if seed else "") for seed in range(3)]
    calls = count_calls(one)
    GuardedCausalLM(guard, one.tokenizer, detector).generate(talk, max_new_tokens=1)
    assert calls() == 1  # all of it in one pass
    alone = LayerDetector.load(bundle)
    said_of = [event.verdict.scores for event in sink.events if isinstance(event, VerdictEvent)][:3]
    for own, scores in zip(talk, said_of, strict=True):
        step = Step(stage="input", text=own[-1]["content"], context=SYSTEM if system else None)
        expected = alone.score([step])[0].by_head["attack"]["harmful"]
        assert scores["attack"]["harmful"] == pytest.approx(expected, abs=2e-5)


def count_calls(one: Inside):
    passes: list[int] = []
    hook = one.model.register_forward_hook(lambda *_: passes.append(1))

    def count() -> int:
        hook.remove()
        return len(passes)

    return count


def harmful_from(one: Inside, talk, least: int, **settings) -> tuple[int, int]:
    """A token that the model writes late and not before, and where."""
    (written,) = plain(one, [talk], **settings)
    at = next(at for at in range(least, len(written)) if written[at] not in written[:at])
    return written[at], at


@pytest.mark.parametrize("way", [{}, {"do_sample": True, "temperature": 0.3}], ids=["greedy", "sampled"])
def test_an_answer_stops_soon_after_it_turns(made, tmp_path, way):
    one, settings = made["llama"], {"max_new_tokens": 45, "eos_token_id": None, **WORDS_ONLY, **way}
    talk = [conversation(seed) for seed in (0, 1, 5)]
    alone = plain(one, talk, **settings)
    # What one of them writes, late, and no other.
    at, token, turn = next(
        (at, token, turn)
        for at, own in enumerate(alone)
        for turn, token in enumerate(own[:30])
        if turn > 5 and token not in own[:turn] and all(token not in other for other in alone if other is not own)
    )
    written = {}
    for every in (1, 4):
        sink = Sink()
        model = guarded(one, tmp_path, tokens=(token,), every=every, sink=sink)
        found = answered(model, talk, **settings)
        assert [own.blocked for own in found] == [other == at for other in range(3)]
        assert all(own.ids == ids for own, ids in zip(found, alone, strict=True) if not own.blocked)
        assert (found[at].text, found[at].ids) == ("No.", ())
        written[every] = found[at].written
        stopped = [event.verdict for event in sink.events if isinstance(event, VerdictEvent) if event.verdict.blocked]
        assert [(verdict.rule, verdict.detector_id) for verdict in stopped] == [("harm", model.detector.detector_id)]
    # Smoothing takes it a token or two to be sure; from there on it stops within `every` tokens.
    assert turn < written[1] <= turn + 3
    assert written[1] <= written[4] < written[1] + 4


class Tokens:
    def __init__(self) -> None:
        self.prompt: list[int] | None = None
        self.ids: list[int] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        if self.prompt is None:
            self.prompt = value[0].tolist()
        else:
            assert value.ndim == 1
            self.ids += value.tolist()

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("hold_back", [4, "all"])
def test_a_streamer_gets_what_may_be_shown(made, tmp_path, hold_back):
    one, settings = made["llama"], {"max_new_tokens": 40, "eos_token_id": None, **WORDS_ONLY}
    token, turn = harmful_from(one, conversation(1), 20, **settings)
    streamer = Tokens()
    model = guarded(one, tmp_path, tokens=(token,), hold_back=hold_back, every=2)
    (found,) = answered(model, [conversation(1)], streamer=streamer, **settings)
    (alone,) = plain(one, [conversation(1)], **settings)
    assert found.blocked
    assert streamer.prompt == render(one.tokenizer, conversation(1)).ids
    assert streamer.ended == 1
    assert tuple(streamer.ids) == alone[: found.streamed]
    assert token not in streamer.ids
    assert found.streamed == 0 if hold_back == "all" else turn - 8 < found.streamed <= turn


def test_a_streamer_gets_the_whole_of_what_is_allowed(made, tmp_path):
    one, streamer = made["qwen2"], Tokens()
    model = guarded(one, tmp_path, harm=NEVER, hold_back=4)
    (found,) = answered(model, [conversation(1)], streamer=streamer, max_new_tokens=20)
    assert tuple(streamer.ids) == found.ids == plain(one, [conversation(1)], max_new_tokens=20)[0]
    assert 0 < found.streamed < len(found.ids)
    assert streamer.ended == 1


@pytest.mark.parametrize("blocks", [((0, "mean"),), ((2, "mean"), (3, "max"))])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_answers_score_in_the_pass_as_a_detector_scores_them(made, tmp_path, kind, blocks):
    one = made[kind]
    bundle = one.bundle(f"whole-{tmp_path.name}", role="assistant", head="harm", blocks=blocks)
    detector, sink = InsideDetector.load(one.model, one.tokenizer, bundle), Sink()
    (tmp_path / "p.yaml").write_text(
        "rules: [{name: harm, stages: [output], head: harm, threshold: 1.0, action: block}]"
    )
    guard = Guard.from_policies(tmp_path / "p.yaml", detector=detector, sinks=[sink])
    talk = conversation(4, system=False)
    token, at = harmful_from(one, talk, 8, max_new_tokens=30, eos_token_id=None, **WORDS_ONLY)
    asked = []
    whole = detector.bound[0].detector.score
    detector.bound[0].detector.score = lambda *args, **more: asked.append(1) or whole(*args, **more)  # type: ignore[method-assign]
    # A token that the model writes anyway is its end, so that the layers have read all before it.
    model = GuardedCausalLM(guard, one.tokenizer, detector)
    (found,) = model.generate([talk], max_new_tokens=30, eos_token_id=token, **WORDS_ONLY)
    assert (found.written, asked) == (at, [])
    step = Step(stage="output", text=found.text, context=talk[-1]["content"])
    windower = detector.bound[0].windower
    assert windower.ids(found.text) == list(found.ids)
    expected = LayerDetector.load(bundle).score([step])[0].by_head["harm"]["harmful"]
    assert found.output is not None
    assert found.output.scores["harm"]["harmful"] == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("negative", ["no", f"{SYSTEM} no no no no"])
@pytest.mark.parametrize("sequential", [False, True])
def test_guided_answers_are_those_of_guidance_alone(made, tmp_path, sequential, negative):
    one, guidance = made["qwen2"], Guidance(coefficient=2.5, sequential=sequential)
    talk = [conversation(1), conversation(2, bad="poison " * 12), conversation(3)]
    prompts = paired(one.tokenizer, talk, positive=SYSTEM, negative=negative)
    alone = GuidedCausalLM(one.model, guidance).generate(**prompts.arguments(), max_new_tokens=10)
    model = guarded(one, tmp_path, harm=NEVER, guidance=guidance)
    model = GuardedCausalLM(
        model.guard, one.tokenizer, model.detector, guidance=guidance, positive=SYSTEM, negative=negative
    )
    found = model.generate(talk, max_new_tokens=10)
    width = prompts.input_ids.shape[1]
    assert [own.blocked for own in found] == [False, True, False]
    for at in (0, 2):
        assert found[at].ids == upto(alone[at, width:].tolist())


def test_a_rewritten_prompt_is_what_the_model_reads(made, tmp_path):
    one = made["llama"]
    more = """
  - {name: mild, stages: [input], head: attack, threshold: 0.01, action: rewrite, rewrite: cleaned}
rewrite:
  cleaned: {kind: replace, text: mill river}
"""
    model = guarded(one, tmp_path, attack=0.99, harm=NEVER, more=more)
    talk = [conversation(1), conversation(2, bad="poison steal secret")]
    found = answered(model, talk, max_new_tokens=10)
    streamer = Tokens()
    (again,) = answered(model, talk[1:], max_new_tokens=10, streamer=streamer)
    assert (tuple(streamer.ids), streamer.ended) == (again.ids, 1)
    new = [*talk[1][:-1], {"role": "user", "content": "mill river"}]
    assert found[1].prompt.action == "rewrite"
    assert found[1].ids == again.ids == plain(one, [new], max_new_tokens=10)[0]
    assert streamer.prompt == render(one.tokenizer, new).ids
    assert found[0].ids == plain(one, [talk[0]], max_new_tokens=10)[0]


def test_an_answer_that_ends_at_once_is_empty(made, tmp_path):
    one = made["llama"]
    first = plain(one, [conversation(1)], max_new_tokens=1)[0][0]
    (found,) = guarded(one, tmp_path, harm=NEVER).generate([conversation(1)], max_new_tokens=9, eos_token_id=first)
    assert (found.text, found.ids, found.blocked, found.written) == ("", (), False, 0)


def test_what_cannot_be_guarded_is_refused(made, tmp_path):
    one = made["llama"]
    model = guarded(one, tmp_path)
    with pytest.raises(ValueError, match="no conversation"):
        model.generate([])
    with pytest.raises(ValueError, match="no conversation"):
        model.generate([[]])
    with pytest.raises(ValueError, match="reads 64"):
        model.generate([conversation(1, bad="mill " * 80)])
    with pytest.raises(UnsupportedValueError, match="input_ids does not go"):
        model.generate([conversation(1)], input_ids=torch.tensor([[1]]))
    with pytest.raises(UnsupportedValueError, match="assistant_model"):
        model.generate([conversation(1)], assistant_model=one.model)
    with pytest.raises(UnsupportedValueError, match="a streamer takes one answer"):
        model.generate([conversation(1), conversation(2)], streamer=Tokens())
    template, one.tokenizer.chat_template = one.tokenizer.chat_template, None
    try:
        with pytest.raises(UnsupportedValueError, match="no chat template"):
            model.generate([conversation(1)])
    finally:
        one.tokenizer.chat_template = template
