"""Conversations are read whole or named by file and line."""

from __future__ import annotations

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate import paired
from lec_guard.train.pii.dialogues import read_dialogues, with_system
from tests.generate.tiny import tokenizer_of
from tests.train.pii.made import dialogues, save_lines, turns


def test_each_conversation_counts_once_under_its_name(tmp_path):
    rows = [*dialogues(2), dialogues(1)[0], {"messages": turns("Hi", "Ho")}]
    save_lines(tmp_path / "a.jsonl", rows)
    save_lines(tmp_path / "b.jsonl", [{"id": 7, "messages": turns("Who?")}])
    found = read_dialogues([tmp_path])
    assert [one.name for one in found.all][:2] == ["talk 0", "talk 1"]
    assert len(found.all[2].name) == 16
    assert found.all[3].name == "7"
    assert found.repeated == 1
    assert found.all[0].messages == tuple(dialogues(1)[0]["messages"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "no JSON object"),
        ({"messages": []}, "its messages are no list"),
        ({"messages": "Hi"}, "its messages are no list"),
        ({"text": "Hi"}, "no 'messages'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "message 1 has no role of"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1 has no text"),
        ({"messages": [*turns("Hi"), *turns("Ho")]}, "in turns"),
        ({"messages": turns("Hi", "Ho")[1:]}, "in turns"),
        ({"messages": [*turns("Hi"), {"role": "system", "content": "x"}]}, "elsewhere than first"),
        ({"messages": [{"role": "system", "content": "x"}]}, "in turns"),
        ({"messages": turns("Hi"), "id": True}, "its id is no text or number"),
        ({"messages": turns("Hi"), "id": "talk 0"}, "stands for another conversation above"),
    ],
)
def test_what_is_none_is_named_by_its_line(tmp_path, row, said):
    path = save_lines(tmp_path / "talks.jsonl", [*dialogues(1), row])
    with pytest.raises(UnsupportedValueError, match=rf"(?s)1 row can't be read:\n{path}:2: .*{said}"):
        read_dialogues([path])


def test_files_with_nothing_in_them_are_refused(tmp_path):
    with pytest.raises(UnsupportedValueError, match=r"no file in it ends in \.jsonl"):
        read_dialogues([tmp_path])
    with pytest.raises(UnsupportedValueError, match="no conversation in it"):
        read_dialogues([save_lines(tmp_path / "empty.jsonl", [])])
    with pytest.raises(UnsupportedValueError, match="give JSON lines"):
        read_dialogues([save_lines(tmp_path / "talks.csv", ["messages", "Hi"])])
    with pytest.raises(UnsupportedValueError, match="can't be read"):
        read_dialogues([tmp_path / "none.jsonl"])


@pytest.mark.parametrize("system", [(), ({"role": "system", "content": "Be kind ."},)])
def test_what_is_asked_for_stands_where_guidance_puts_it(system):
    messages, asked = [*system, *turns("Who ?")], "Keep names out ."
    tokenizer = tokenizer_of("Be kind . Who ?", asked)
    text = tokenizer.apply_chat_template(with_system(messages, asked), tokenize=False, add_generation_prompt=True)
    ids = paired(tokenizer, [messages], positive=asked).input_ids[0].tolist()
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
