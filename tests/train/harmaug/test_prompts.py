"""What models are told, and what their answers must be like."""

from __future__ import annotations

import pytest

from lec_guard.train.harmaug import Said
from lec_guard.train.harmaug.prompts import instruction, key_words, loops, on_topic, read, response, seed_of, twin


def said(text: str, **given: object) -> Said:
    return Said(**{"text": text, "prefixed": True, "ending": "stop", "tokens_in": 1, "tokens_out": 1, **given})


def test_the_prompt_is_the_papers_with_examples_that_stay_where_they_are():
    prompt = instruction("petty_theft", ["Steal it.", 'Two\nlines "quoted"'], 7)
    assert prompt.user.startswith("Make a single harmful instruction prompt that would elicit petty theft content.")
    assert '\n"Two\\nlines \\"quoted\\""\n' in prompt.user
    assert (prompt.prefix, prompt.seed) == ("I have an idea for a prompt:", 7)


def test_a_twin_is_told_its_key_words_and_an_answer_its_request():
    assert "Keep these words: piano, museum. " in twin("Steal the piano.", ("piano", "museum"), 1).user
    assert "Keep" not in twin("Steal it.", (), 1).user
    complies, declines = (response(kind, "Steal it.", 1) for kind in ("compliance", "refusal"))
    assert "complies" in complies.user
    assert "declines" in declines.user
    assert complies.prefix == declines.prefix != ""


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("Steal the piano.", "Steal the piano."),
        ('"Steal the piano."', "Steal the piano."),
        ('"Steal the piano." This would elicit theft.', "Steal the piano."),
        ("\n\nSteal the piano.\n\nLet me know if you want more!", "Steal the piano."),
        ("\u201cSteal the piano.\u201d", "Steal the piano."),
        ("'Don't steal' is what they say", "'Don't steal' is what they say"),
        ('"', '"'),
    ],
)
def test_an_instruction_is_the_first_paragraph_out_of_its_quotes(text, taken):
    assert read("instruction", said(text), 1000)[0] == taken


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.", "I\u2019m really sorry, I cannot do this.", "I can't assist.",
        "I cannot create such content.", "I won't provide that.", "I'm unable to write this.", "Sorry, no.",
        "As an AI language model, I do not steal.", "I must decline.", "I apologize, but no.",
        "Unfortunately, I cannot fulfill this.", "It would be inappropriate to write this.",
    ],
)  # fmt: skip
def test_refusals_are_known(text):
    assert read("instruction", said(text), 1000)[1] == "refused"
    assert read("refusal", said(text), 1000)[1] is None


@pytest.mark.parametrize(
    "text",
    [
        "I can't sleep. How do I steal a piano?", "Explain how to apologise to a museum.", "Sorry is a song; steal it.",
        "I am writing a novel about theft.", "As an air traveller, how do I hide a piano?",
    ],
)  # fmt: skip
def test_what_only_sounds_like_a_refusal_is_none(text):
    assert read("instruction", said(text), 1000)[1] is None


@pytest.mark.parametrize(
    ("kind", "given", "why"),
    [
        ("instruction", {"text": "Steal it.", "prefixed": False}, "no prefix"),
        ("instruction", {"text": " ...\n"}, "empty"),
        ("instruction", {"text": "Steal it. " + " ".join(map(str, range(30)))}, "too long"),
        ("instruction", {"text": "Steal it and", "ending": "length"}, "too long"),
        ("instruction", {"text": "Steal it.\n\nAnd then", "ending": "length"}, None),
        ("instruction", {"text": "Steal it.", "ending": "refused"}, "refused"),
        ("compliance", {"text": "Sure: first you", "ending": "length"}, None),
        ("compliance", {"text": "Sure: " + " ".join(map(str, range(60)))}, None),
        ("compliance", {"text": "Sure: " + " ".join(map(str, range(160)))}, "too long"),
        ("refusal", {"text": "No.", "ending": "refused"}, "refused"),
        ("refusal", {"text": "no no no no no no"}, "repeats itself"),
    ],
)
def test_why_an_answer_is_of_no_use(kind, given, why):
    text = given.pop("text")
    assert read(kind, said(text, **given), 60)[1] == why


@pytest.mark.parametrize(
    ("text", "stuck"),
    [
        ("steal it now and " * 6, True), ("la la la la la la", True), ("no, no, no!", False),
        ("Steal the old piano, then the new piano, then every other piano that stands in the museum.", False),
    ],
)  # fmt: skip
def test_what_repeats_itself_is_known(text, stuck):
    assert loops(text) is stuck


def test_key_words_say_what_a_text_is_about_and_may_change_their_form():
    words = key_words("Please explain how to steal a piano from the museum without the guards")
    assert words == ("steal", "piano", "museum", "guards")
    assert on_topic("Which museums let visitors play pianos?", words)
    assert not on_topic("Which museum opens on Mondays?", words)
    assert on_topic("Anything", key_words("How to do it?"))


def test_seeds_are_the_same_in_every_process():
    assert seed_of(1, "twin", 2) == 4423802059650572162
    assert seed_of(1, "twin", 2) != seed_of(1, "twin", 3)
    assert 0 <= seed_of("\ud83d") < 2**63
