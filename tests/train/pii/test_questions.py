"""Whether an answer is right."""

from __future__ import annotations

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.pii.questions import is_right, read_questions
from tests.train.pii.made import save_lines, turns

CHOICES = ["Rome", "Oslo", "Bonn"]


def read(tmp_path, *rows):
    return read_questions([save_lines(tmp_path / "questions.jsonl", rows)])


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        ("Oslo", "It is oslo, of course.", True),
        ("Oslo", "Osloer", False),
        (["3.5", "three and a half"], "That makes 3.5.", True),
        (["3.5", "three and a half"], "Three and a half!", True),
        ("3.5", "That makes 13.5", False),
        (42, "42", True),
        ("New York", "new\n york", True),
        ("New York", "York, new", False),
    ],
)
def test_free_answers_have_what_is_accepted_as_whole_words(tmp_path, answer, said, right):
    (question,) = read(tmp_path, {"question": "Which?", "answer": answer})
    assert is_right(question, said) is right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("B", True), ("(b) Oslo", True), ("Answer: B.", True), ("The answer is B", True),
        ("It must be B, not A.", True), ("A", False), ("A. Rome is larger than B", False),
        ("Be that as it may", False), ("", False), ("Oslo", False),
    ],
)  # fmt: skip
def test_of_choices_the_letter_that_stands_first_counts(tmp_path, said, right):
    (question,) = read(tmp_path, {"messages": turns("Which?"), "answer": "Oslo", "choices": CHOICES})
    assert question.messages[-1]["content"].startswith("Which?\n\nA. Rome\nB. Oslo\nC. Bonn\n\nAnswer with the letter")
    assert is_right(question, said) is right
    (same,) = read(tmp_path, {"question": "Which?", "answer": "b", "choices": CHOICES})
    assert same.accepted == question.accepted == ("B",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"answer": "x"}, "either 'question' or 'messages'"),
        ({"question": "Q", "messages": turns("Q"), "answer": "x"}, "either 'question' or 'messages'"),
        ({"question": "Q"}, "no 'answer'"),
        ({"question": "Q", "answer": []}, "is no text, or list"),
        ({"question": "Q", "answer": ["x", None]}, "is no text, or list"),
        ({"question": "Q", "answer": "?"}, "is no text, or list"),
        ({"question": "Q", "answer": "x", "choices": ["x"]}, "no list of 2 to 10"),
        ({"question": "Q", "answer": "x", "choices": ["y", "z"]}, "none of its 'choices'"),
        ({"question": " ", "answer": "x"}, "message 1 has no text"),
    ],
)
def test_rows_that_are_none_are_named_by_their_line(tmp_path, row, said):
    with pytest.raises(UnsupportedValueError, match=rf"(?s)questions\.jsonl:2: .*{said}"):
        read(tmp_path, {"question": "Q", "answer": "x"}, row)
