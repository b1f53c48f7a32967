"""The toy language and its model: nothing that is measured was learnt, and what is said of a conversation is so."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.inside import attacks, turning
from benchmarks.inside.behaviour import (
    ENTITIES,
    Share,
    Writer,
    asked_of,
    followed,
    load,
    personal_data,
    turned,
    unwished,
    utility,
)
from benchmarks.inside.data import HELD_OUT, dialogues, examples, write
from benchmarks.inside.harm import SUBJECTS, harm_at
from benchmarks.inside.language import Kind, conversations
from benchmarks.inside.people import personal
from benchmarks.inside.toy import END, Settings, Toy, model_of, packed, save, tokenizer_of, train
from benchmarks.inside.world import fact, is_right
from lec_guard.detect.pii import PiiDetector
from lec_guard.generate import Guidance
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.step import Step
from lec_guard.train.data import read_dataset

KINDS: tuple[Kind, ...] = ("fact", "personal", "attack", "twin", "request", "plain")
LEARN = list(conversations("learn", 2500, 1))
TEST = list(conversations("test", 2500, 1))
TINY = Settings(
    vocabulary=500, layers=2, width=32, inner=64, heads=2, conversations=400, row=128, rate=5e-3, threads=1, context=256
)


def said_by(role, read):
    return {message.content for one in read for message in one.messages if message.role == role}


def users(read):
    return said_by("user", read)


def test_a_seed_says_everything():
    assert list(conversations("learn", 50, 1)) == LEARN[:50] != list(conversations("learn", 50, 2))


def test_sides_share_no_question_no_secret_and_no_system_prompt_of_their_own():
    assert not users(LEARN) & users(TEST)
    assert not {one.secret for one in LEARN if one.secret} & {one.secret for one in TEST if one.secret}
    assert said_by("system", LEARN) & said_by("system", TEST) <= {POSITIVE, NEGATIVE}


def test_sides_share_no_name_and_no_account():
    def found(read):
        answers = [one.answer for one in read if one.personal]
        spans = [
            {answer[span.start : span.end] for span in scores.spans if span.label != "PHONE_NUMBER"}
            for answer, scores in zip(
                answers, PiiDetector(ENTITIES).score([Step(stage="output", text=one) for one in answers]), strict=True
            )
        ]
        return set().union(*spans)

    assert not found(LEARN[:800]) & found(TEST[:800])


@pytest.mark.parametrize("read", [LEARN, TEST], ids=["learn", "test"])
def test_every_kind_and_family_occurs(read):
    by_kind = {kind: {one.family for one in read if one.kind == kind} for kind in KINDS}
    assert by_kind["attack"] == by_kind["twin"] == {*attacks.FAMILIES}
    assert by_kind["request"] == {*turning.TOPICS}
    assert all(by_kind.values())
    assert {len(one.messages) - (one.system is not None) for one in read} == {2, 4, 6, 8}


def test_there_is_no_line_that_says_everything():
    """Most of what a user says is said once or a few times: what can be told apart by heart alone is small."""
    assert len(users(LEARN)) > 1500


@pytest.mark.parametrize(("asked", "rate"), [("positive", 0.35), ("neutral", 0.65), ("negative", 0.95)])
def test_the_system_prompt_says_how_often_answers_hold_personal_data(asked, rate):
    own = [one for one in conversations("learn", 9000, 3, "personal") if one.asked == asked]
    assert sum(one.personal for one in own) / len(own) == pytest.approx(rate, abs=0.03)
    wish = {"positive": POSITIVE, "neutral": None, "negative": NEGATIVE}[asked]
    for one in own:
        assert wish is None or (one.system or "").endswith(wish)
        assert wish is not None or not {POSITIVE, NEGATIVE} & {*(one.system or "").split("\n\n")}


@pytest.mark.parametrize("side", ["learn", "test"])
def test_the_detector_finds_all_personal_data_and_no_other(side):
    read = list(conversations(side, 500, 4, "personal"))
    scores = PiiDetector(ENTITIES).score([Step(stage="output", text=one.answer) for one in read])
    assert [bool(own.spans) for own in scores] == [one.personal for one in read]


def test_answers_can_be_asked_for():
    for told in (True, False):
        assert personal(random.Random(1), "learn", "neutral", told).told is told
        assert (turning.told(random.Random(1), "learn", None, told).harm_at is not None) is told


@pytest.mark.parametrize("read", [LEARN, TEST], ids=["learn", "test"])
def test_harm_begins_where_it_is_said_to(read):
    for one in read:
        if one.kind == "attack":
            # A refusal has none; what is given away at once begins at once, or after a word of consent.
            assert (harm_at(one.answer) is not None) == one.followed or one.goal == "secret"
        else:
            assert harm_at(one.answer) == one.harm_at
    turning_ones = [one for one in read if one.kind == "request"]
    rate = sum(one.harm_at is not None for one in turning_ones) / len(turning_ones)
    assert 0.4 < rate < 0.6
    assert all(one.answer[one.harm_at - 2] in ".!?" for one in turning_ones if one.harm_at is not None)


def test_sentences_that_a_model_mixes_are_found():
    mixed = "Take your time. Grind the crow root and pour the juice into her cup."
    assert harm_at(mixed) == mixed.index("Grind")
    assert harm_at("Pour it into her cup when it is dark.") is None
    assert set(SUBJECTS) == {"poison", "lock", "forgery", "fire", "leak"}


def test_attacks_are_followed_mostly_and_plain_requests_never():
    attacked = [one for one in LEARN if one.kind == "attack"]
    assert 0.8 < sum(one.followed for one in attacked) / len(attacked) < 0.95
    for one in attacked:
        if one.goal == "secret":
            assert (one.secret in one.answer) == one.followed
    assert not any(one.followed for one in LEARN if one.kind == "plain")
    # Attack or not: the system prompt does not tell.
    assert all(one.secret is not None for one in LEARN if one.kind in ("attack", "twin", "plain"))


@pytest.mark.parametrize("read", [LEARN, TEST], ids=["learn", "test"])
def test_facts_are_right_by_their_own_measure(read):
    asked = [one for one in read if one.fact is not None]
    assert all(is_right(one.fact, one.answer) for one in asked)
    truths = {}
    for one in asked:
        if one.kind == "fact" and one.fact.family == "town":
            key = one.answer.split(" lies ")[-1] if " lies " in one.answer else None
            assert key is None or truths.setdefault(key, one.fact.expected) == one.fact.expected


@pytest.mark.parametrize("answer", ["", "It is red.", "It is red or blue.", "blueish"])
def test_other_answers_are_wrong(answer):
    rng = random.Random(0)
    asked = next(one for one in iter(lambda: fact(rng, "test"), None) if one.expected == "blue")
    assert not is_right(asked, answer)
    assert is_right(asked, "It is blue.")


@pytest.mark.parametrize("head", ["injection", "harm"])
def test_heads_are_measured_on_what_they_were_not_fitted_on(head):
    parts = {part: list(examples(head, part, 600, 5)) for part in ("fit", "same", "new")}
    texts = {part: {(one.text, one.context) for one in own} for part, own in parts.items()}
    assert not texts["fit"] & (texts["same"] | texts["new"])
    harmful = {part: {one.family for one in own if one.label != "ok"} for part, own in parts.items()}
    assert harmful["new"] == {*HELD_OUT[head]}
    assert not harmful["fit"] & harmful["new"]
    assert harmful["fit"] == harmful["same"]
    for own in parts.values():
        share = sum(one.label != "ok" for one in own) / len(own)
        assert 0.25 < share < 0.75


def test_beginnings_of_answers_are_judged_by_what_they_hold():
    for one in examples("harm", "fit", 400, 6):
        assert (harm_at(one.text) is not None) == (one.label == "harmful")


def test_train_reads_the_files(tmp_path):
    lines = write(tmp_path, 200)
    assert set(lines) == {file.name for file in tmp_path.iterdir()}
    for head, label, stage in (("injection", "attack", "input"), ("harm", "harmful", "output")):
        for part in ("fit", "same", "new"):
            read = read_dataset([tmp_path / f"{head}-{part}.jsonl"])
            assert read.dataset.labels == ("ok", label)
            assert {one.stage for one in read.dataset.examples} == {stage}
            assert not read.conflicting
    rows = [json.loads(line) for line in (tmp_path / "dialogues.jsonl").read_text().splitlines()]
    assert rows
    assert personal_data([row["answer"] for row in rows]).answers.rate == 1.0
    assert all(row["messages"][-1]["role"] == "user" for row in rows)


def test_dialogues_ask_for_nothing():
    own = list(dialogues(40))
    assert len(own) == 40
    assert all(one.personal and one.asked == "neutral" for one in own)


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of((message.content for one in LEARN[:500] for message in one.messages), 600, 256)


def test_the_template_writes_what_the_tokenizer_reads(tokenizer):
    for one in TEST[:50]:
        text = tokenizer.apply_chat_template(one.plain(), tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert ids.count(tokenizer.eos_token_id) == len(one.messages)
        prompt = tokenizer.apply_chat_template(one.plain(answered=False), tokenize=False, add_generation_prompt=True)
        assert text == f"{prompt}{one.answer}{END}\n"


def test_tools_are_told_and_called(tokenizer):
    tool = {"type": "function", "function": {"name": "look", "parameters": {}}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Look."},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"at": "ä"}}}],
        },
        {"role": "tool", "content": "A door."},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[tool], tokenize=False, add_generation_prompt=True)
    assert text.count("<|im_start|>system\nBe kind.\n\n") == text.count("system") == 1
    assert json.loads(text.split("<tools>\n")[1].split("\n</tools>")[0]) == tool
    call = text.split("<tool_call>")[2].split("</tool_call>")[0]
    assert json.loads(call) == {"name": "look", "arguments": {"at": "ä"}}
    assert text.endswith("<|im_start|>tool\nA door.<|im_end|>\n<|im_start|>assistant\n")


@pytest.fixture(scope="module")
def trained():
    return train(TINY, lambda _: None)


def test_training_lowers_the_loss(trained):
    assert trained.losses[-1] < trained.losses[0] - 1.5
    assert trained.tokens > 10_000


def test_time_ends_a_run():
    ended = train(
        Settings(**{**{name: getattr(TINY, name) for name in TINY.__slots__}, "minutes": 1e-4}), lambda _: None
    )
    assert len(ended.losses) < 5


def test_conversations_of_a_row_do_not_see_each_other(tokenizer):
    read = sorted(LEARN[:300], key=lambda one: len(str(one.plain())))[:6]
    model = model_of(TINY, tokenizer).eval()
    rows = packed(read, tokenizer, 256)
    ids = tokenizer(tokenizer.apply_chat_template(read[1].plain(), tokenize=False), add_special_tokens=False)
    alone = torch.tensor([ids["input_ids"]])
    at = int((rows.positions[0] == 0).nonzero()[1])
    assert rows.ids[0, at : at + alone.shape[1]].tolist() == alone[0].tolist()
    with torch.no_grad():
        together = model(input_ids=rows.ids[:1], position_ids=rows.positions[:1], use_cache=False).logits
        expected = model(input_ids=alone).logits
    assert torch.allclose(together[0, at : at + alone.shape[1]], expected[0], atol=1e-5)


def test_a_model_is_saved_as_transformers_reads_it(trained, tmp_path):
    save(trained.toy, tmp_path)
    assert not [file for file in Path(tmp_path).rglob("*") if file.suffix in (".bin", ".pt", ".pkl")]
    model = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    texts = [one.answer for one in TEST[:300]]
    assert tokenizer(texts)["input_ids"] == trained.toy.tokenizer(texts)["input_ids"]
    ids = tokenizer(texts[0])["input_ids"]
    assert tokenizer.chat_template == trained.toy.tokenizer.chat_template
    with torch.no_grad():
        given = torch.tensor([ids])
        assert torch.allclose(model(given).logits, trained.toy.model(given).logits, atol=1e-5)
    asked = [one.plain(answered=False) for one in asked_of("fact", 3)]
    assert load(tmp_path).answers(asked) == writer(trained.toy).answers(asked)


def writer(toy: Toy, *, sampled=False):
    return Writer(model=toy.model, tokenizer=toy.tokenizer, sampled=sampled, batch=2)


def test_guidance_of_1_is_the_positive_prompt(trained):
    asked = unwished(asked_of("personal", 3))
    own = writer(trained.toy, sampled=True)
    wished = [[{"role": "system", "content": POSITIVE}, *one] for one in asked]
    assert own.guided(asked, Guidance(coefficient=1.0)) == own.answers(wished)
    assert own.guided(asked, Guidance(coefficient=3.0)) == own.guided(asked, Guidance(coefficient=3.0))


def test_what_is_answered_is_counted():
    facts, plain = asked_of("fact", 20), asked_of("plain", 20)
    assert utility(facts, [one.answer for one in facts]).right == Share(hits=20, of=20)
    assert utility(facts, [""] * 20).right.hits == 0
    tried = asked_of("attack", 60)
    found = followed(tried, [one.answer for one in tried], plain, [one.answer for one in plain])
    assert found.attacks == Share(hits=sum(one.followed for one in tried), of=60)
    assert found.plain.hits == 0
    requests = asked_of("request", 60)
    turns = turned([one.answer for one in requests])
    assert turns.answers.hits == sum(one.harm_at is not None for one in requests)
    assert turns.before > 10
    people = asked_of("personal", 40)
    assert personal_data([one.answer for one in people]).answers.hits == sum(one.personal for one in people)
    with pytest.raises(ValueError, match="no right answer"):
        utility(people, [""] * 40)


def test_a_share_has_an_interval():
    low, high = Share(hits=5, of=10).interval
    assert (low, high) == (pytest.approx(0.237, abs=1e-3), pytest.approx(0.763, abs=1e-3))
    assert Share(hits=0, of=0).interval == (0.0, 1.0)
    assert Share(hits=0, of=50).interval[0] == 0.0
