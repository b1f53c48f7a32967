"""Pairs as tokens: the prompt as a model is given it, and behind it what it is to write."""

from __future__ import annotations

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate import paired
from lec_guard.generate.prompts import NEGATIVE, POSITIVE
from lec_guard.train.pii.pairs import content_ids, fit, read_pairs
from tests.generate.tiny import EOS, tokenizer_of
from tests.train.pii.made import DISCREET, SHY, dialogues, pairs, save_lines

WORDS = [one["content"] for row in dialogues() for one in row["messages"]]


@pytest.fixture
def tokenizer():
    return tokenizer_of(*WORDS, DISCREET, SHY, POSITIVE, NEGATIVE, "Be kind . <end>")


def read(tmp_path, rows):
    return read_pairs([save_lines(tmp_path / "pairs.jsonl", rows)])


def test_prompts_are_to_the_token_what_guidance_gives_a_model(tmp_path, tokenizer):
    rows = pairs(2)
    for row in rows[:2]:
        row["prompt"][0]["content"] = f"Be kind .\n\n{row['asked']}"
    found = read(tmp_path, rows)
    assert (found.positive, found.negative) == (POSITIVE, NEGATIVE)
    fitted = fit(found.all, tokenizer, max_prompt=50, max_length=60)
    own = [{"role": "system", "content": "Be kind ."}, *rows[0]["prompt"][1:]]
    prompts = paired(tokenizer, [own, rows[2]["prompt"][1:]])
    first = list(zip(prompts.input_ids, prompts.attention_mask, strict=True))
    second = list(zip(prompts.negative_input_ids, prompts.negative_attention_mask, strict=True))
    for number, (ids, mask) in enumerate([first[0], second[0], first[1], second[1]]):
        given = ids[mask.bool()].tolist()
        row = fitted.rows[number]
        for side in ("chosen", "rejected"):
            answer = content_ids(tokenizer, rows[number][side])
            assert row[f"{side}_input_ids"] == [*given, *answer, EOS]
            assert row[f"{side}_labels"] == [*[-100] * len(given), *answer, EOS]
            assert row[f"{side}_attention_mask"] == [1] * len(row[f"{side}_input_ids"])
    assert (fitted.shortened, fitted.cut, fitted.left_out.total()) == (0, 0, 0)


def test_what_an_answer_begins_with_is_given_and_not_learnt(tmp_path, tokenizer):
    row = {**pairs(1, guided=False)[0], "prefix": "Ada Quill", "chosen": " wrote .", "rejected": " wrote letter 0 ."}
    (found,) = fit(read(tmp_path, [row]).all, tokenizer, max_prompt=50, max_length=60).rows
    assert tokenizer.decode([one for one in found["chosen_labels"] if one != -100]) == "wrote . <eos>"
    assert tokenizer.decode(found["chosen_input_ids"]).endswith("<assistant> Ada Quill wrote . <eos>")


def test_a_template_that_ends_answers_is_followed(tmp_path, tokenizer):
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}> {{ message.content }} <end> {% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    (row, *_) = fit(read(tmp_path, pairs(1)).all, tokenizer, max_prompt=50, max_length=60).rows
    assert tokenizer.decode(row["chosen_input_ids"]).endswith("tell . <end> <eos>")


def test_what_somebody_typed_never_becomes_template(tmp_path, tokenizer):
    row = {**pairs(1, guided=False)[0], "chosen": "<eos> <system> nobody"}
    (found,) = fit(read(tmp_path, [row]).all, tokenizer, max_prompt=50, max_length=60).rows
    assert found["chosen_input_ids"].count(EOS) == 1
    system = tokenizer.convert_tokens_to_ids("<system>")
    assert system not in found["chosen_input_ids"]


def test_long_conversations_lose_what_was_said_first(tmp_path, tokenizer):
    talk = [one for row in dialogues(3) for one in row["messages"]][:5]
    row = {"prompt": [{"role": "system", "content": "Be kind ."}, *talk], "chosen": DISCREET, "rejected": SHY}
    found = read(tmp_path, [row]).all
    fitted = fit(found, tokenizer, max_prompt=20, max_length=60)
    assert fitted.shortened == 1
    text = tokenizer.decode(fitted.rows[0]["chosen_input_ids"])
    assert text.startswith("<system> Be kind . <user> Who wrote letter 2 ? <assistant>")
    left = fit(found, tokenizer, max_prompt=5, max_length=60)
    assert left.rows == []
    assert left.left_out == {"the prompt has more than 5 tokens": 1}


def test_long_answers_are_cut_and_counted(tmp_path, tokenizer):
    found = read(tmp_path, pairs(1, guided=False)).all
    fitted = fit(found, tokenizer, max_prompt=10, max_length=14)
    assert fitted.cut == 1
    assert {len(ids) for ids in fitted.rows[0].values()} == {14}


def test_answers_that_are_the_same_to_the_model_are_left_out(tmp_path, tokenizer):
    row = {**pairs(1, guided=False)[0], "chosen": "unheard", "rejected": "unseen"}
    fitted = fit(read(tmp_path, [row]).all, tokenizer, max_prompt=50, max_length=60)
    assert fitted.left_out == {"both answers are the same to the model": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "Who?"}, "its messages are no list"),
        ({"prompt": dialogues(1)[0]["messages"]}, "its last message is not the user's"),
        ({"chosen": " "}, "its 'chosen' is no text"),
        ({"rejected": None}, "its 'rejected' is no text"),
        ({"rejected": DISCREET}, "its answers are the same"),
        ({"swapped": "no"}, "'swapped' is true or false"),
        ({"asked": "Something else."}, "is not what its system prompt ends with"),
    ],
)
def test_rows_that_are_none_are_named_by_their_line(tmp_path, change, said):
    rows = [*pairs(1, guided=False), {**pairs(1, guided=False)[0], **change}]
    with pytest.raises(UnsupportedValueError, match=rf"pairs\.jsonl:2: .*{said}"):
        read(tmp_path, rows)


def test_pairs_of_two_settings_are_refused(tmp_path):
    other = pairs(1)[0]
    other |= {"asked": "No names.", "prompt": [{"role": "system", "content": "No names."}, *other["prompt"][1:]]}
    with pytest.raises(UnsupportedValueError, match="system prompts of 2 kinds"):
        read(tmp_path, [*pairs(1), other])
    with pytest.raises(UnsupportedValueError, match="no pair in it"):
        read(tmp_path, [])
