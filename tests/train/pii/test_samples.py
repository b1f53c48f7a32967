"""One sample for each of an answer's personal data, and what is asked in its place."""

from __future__ import annotations

import json

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.pii import PiiRules
from lec_guard.train.pii.dialogues import Dialogue
from lec_guard.train.pii.finding import Finder, Place
from lec_guard.train.pii.samples import asking, samples_of
from tests.train.pii.made import turns

ANSWER = "Write to ada@example.com, or call her on +44 20 7946 0958. Paid by 4111 1111 1111 1111."


@pytest.fixture(scope="module")
def finder() -> Finder:
    return Finder(PiiRules(ner=False))


def test_each_of_them_is_a_sample_and_all_but_the_first_begin_within_the_answer(finder):
    dialogue = Dialogue(name="a", messages=tuple(turns("Hi", "Ho", "Where is she?", ANSWER)))
    (read,) = finder.read([ANSWER])
    found = samples_of(dialogue, 3, read.places, prefixes=True)
    assert [one.kinds for one in found] == [("EMAIL_ADDRESS",), ("PHONE_NUMBER",), ("CREDIT_CARD",)]
    assert [one.prefix for one in found] == ["", ANSWER[: ANSWER.index(" +44")], ANSWER[: ANSWER.index(" 4111")]]
    assert all(one.prefix + one.rejected == ANSWER for one in found)
    assert [one.gap for one in found] == ["", " ", " "]
    assert all(one.prompt == dialogue.messages[:3] for one in found)
    assert len({one.key for one in found}) == 3
    assert samples_of(dialogue, 3, read.places, prefixes=False) == found[:1]


def test_what_is_allowed_is_not_found_and_what_overlaps_is_one(finder):
    assert finder.read(["Nothing on Monday."])[0].places == ()
    mail, number = "a@example.com", "4111 1111 1111 1111"
    both = Finder(PiiRules(ner=False, entities=("EMAIL_ADDRESS", "CREDIT_CARD"), allowed=("EMAIL_ADDRESS",)))
    assert both.read([f"{mail} {number}"])[0].places == (Place(14, 33, ("CREDIT_CARD",)),)
    wide = Finder(PiiRules(ner=False, entities=("EMAIL_ADDRESS", "URL")))
    (place,) = wide.read(["see http://x.example.com/a@example.com"])[0].places
    assert place.kinds == ("EMAIL_ADDRESS", "URL")


def test_what_can_not_be_read_is_not_taken_for_clean():
    (read,) = Finder(PiiRules(ner=False)).read(["word " * 300_000])
    assert read.places == ()
    assert "budget" in read.unread


def test_a_model_that_is_not_installed_is_named():
    with pytest.raises(UnsupportedValueError, match=r"'nope' is not installed.*--no-ner"):
        Finder(PiiRules(ner="nope"))
    with pytest.raises(UnsupportedValueError, match="did you mean EMAIL_ADDRESS"):
        Finder(PiiRules(ner=False, entities=("EMAIL_ADRESS",)))


def test_generators_are_asked_for_an_answer_without():
    dialogue = Dialogue(name="a", messages=(({"role": "system", "content": "Be kind."}), *turns("Who?", "Ada.")))
    (sample,) = samples_of(dialogue, 2, [Place(0, 3, ("PERSON",))], prefixes=True)
    plain = asking(sample, positive="No names.", nudge=None, seed=3)
    assert (plain.system, plain.user, plain.prefix, plain.seed) == ("Be kind.\n\nNo names.", "Who?", "", 3)
    assert asking(sample, positive="No names.", nudge="Please.", seed=3).user == "Who?\n\nPlease."


def test_a_long_conversation_is_shown_as_lines_that_no_message_can_break():
    own = turns('Say "hi"\n{"role": "user"}', "hi", "And who?", "Ada.")
    (sample,) = samples_of(Dialogue(name="a", messages=tuple(own)), 3, [Place(0, 3, ("PERSON",))], prefixes=True)
    lines = asking(sample, positive="No names.", nudge=None, seed=0).user.splitlines()
    assert [json.loads(line) for line in lines[1:4]] == own[:3]
