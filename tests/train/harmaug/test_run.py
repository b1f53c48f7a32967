"""From labelled texts to more of them: rows that can be learnt from, the same ones however a run went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage

from lec_guard.errors import UnsupportedValueError
from lec_guard.testing import KeywordDetector
from lec_guard.train.data import Columns, read_dataset
from lec_guard.train.harmaug import AugmentConfig, AugmentError, Models, Report, aaugment, augment
from tests.train.harmaug.made import (
    Stopped,
    about,
    config,
    judge,
    number_of,
    request_of,
    save_writer,
    scripted,
    write,
    write_data,
)

FILES = ("examples.jsonl", "set_aside.jsonl", "augment.json")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path)


def run(own: AugmentConfig, out: Path, *, writer=write, teacher=judge, responder=None) -> Report:
    given = Models(generator=scripted(writer), responder=responder and scripted(responder), teacher=scripted(teacher))
    return augment(own, out, models=given)


def read(out: Path, name: str = "examples.jsonl") -> list[dict]:
    return [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]


def of(rows: list[dict], kind: str) -> list[dict]:
    return [row for row in rows if row["origin"]["kind"] == kind]


def test_each_harmful_instruction_has_a_twin_and_two_answers(data, tmp_path):
    report = run(config(data), tmp_path / "out")
    rows = read(tmp_path / "out")
    assert {kind: len(of(rows, kind)) for kind in report.made} == {
        "instruction": 4, "twin": 4, "compliance": 4, "refusal": 4,
    }  # fmt: skip
    requests = {row["origin"]["number"]: row["text"] for row in of(rows, "instruction")}
    for row in rows:
        answers = row["origin"]["kind"] in ("compliance", "refusal")
        assert row.get("context") == (requests[row["origin"]["number"]] if answers else None)
        assert row["stage"] == ("output" if answers else "input")
        harmful = row["origin"]["kind"] in ("instruction", "compliance")
        assert (row["label"], row["score"]) == (("forbidden", 0.9) if harmful else ("ok", 0.1))
        assert row["family"] == f"augmented/scripted/{row['category']}"
        assert row["origin"]["generator"] == "scripted"
        assert row["group"] == f"{row['family']}/{row['origin']['number']}"
        assert {name.partition(":")[0] for name in row["origin"]["exemplars"]} == {"data.jsonl"}
        assert not row["text"].startswith(("I have an idea", "Here is"))
    assert {row["category"] for row in rows} == {"theft", "fraud"}
    assert json.loads((tmp_path / "out" / "augment.json").read_text()) == json.loads(report.model_dump_json())
    assert {path.stat().st_mode & 0o077 for path in (tmp_path / "out").iterdir()} == {0}


@pytest.mark.parametrize(
    "labels", [("ok", "forbidden"), (0, 1), (False, True)], ids=["words", "numbers", "truth values"]
)
def test_what_is_made_can_be_learnt_from_with_and_without_the_data_it_was_made_from(tmp_path, labels):
    data = write_data(tmp_path, labels=labels)
    run(config(data), tmp_path / "out")
    made = tmp_path / "out" / "examples.jsonl"
    both = read_dataset([data, made]).dataset
    assert len(both.labels) == 2
    assert {both.examples[at].text.split()[0] for at in both.hard.nonzero()[0]} == {"How", "Secretly", "Sure,"}
    soft = read_dataset([made], Columns(label="score")).dataset
    assert {round(float(share), 2) for share in soft.harmful} == {0.1, 0.9}
    assert {example.family for example in soft.examples} == {"augmented/scripted/theft", "augmented/scripted/fraud"}
    assert {example.stage for example in soft.examples} == {"input", "output"}


def test_exemplars_are_of_the_topic_and_a_retry_shows_others(data, tmp_path):
    asked = []

    def writer(messages):
        if about(messages) == "instruction":
            asked.append(messages[1].text)
            return "I'm sorry, but I can't help with that." if len(asked) <= 4 else write(messages)
        return write(messages)

    report = run(config(data, concurrency=1, exemplars=2), tmp_path / "out", writer=writer)
    assert report.made["instruction"].no_use["refused"] >= 4
    assert all(
        ("elicit theft content" in one) == ("goblets" in one or "carpets" in one or "ladders" in one) for one in asked
    )
    # The first four were of no use, and come again.
    assert [one.partition("elicit ")[2][:5] for one in asked[:4]] == [
        one.partition("elicit ")[2][:5] for one in asked[4:8]
    ]
    assert asked[:4] != asked[4:8]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(config(write_data(folder), count=12), folder / "out", writer=picky)
    return folder


def picky(messages):
    """Some answers are refusals, and some repeat others."""
    at = number_of(messages[1].text, 7)
    return "I cannot help with that." if at == 0 and about(messages) != "refusal" else write(messages)


@pytest.mark.parametrize(
    ("model", "at"), [("writer", 1), ("writer", 9), ("writer", 30), ("teacher", 1), ("teacher", 50)]
)
def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(whole, tmp_path, model, at):
    own = config(whole / "data.jsonl", count=12, concurrency=4)
    answers = {"writer": picky, "teacher": judge}
    with pytest.raises(KeyboardInterrupt):
        run(own, tmp_path / "out", **{**answers, model: Stopped(answers[model], at)})
    assert not (tmp_path / "out" / "examples.jsonl").exists()
    journal = tmp_path / "out" / "journal.jsonl"
    there = journal.read_bytes()
    # As a machine leaves it that lost its power.
    journal.write_bytes(there + b'{"key": "instruction/3/0/00')
    again = scripted(picky)
    augment(own, tmp_path / "out", models=Models(generator=again, teacher=scripted(judge)))
    assert journal.read_bytes().startswith(there)
    total = len((whole / "out" / "journal.jsonl").read_bytes().splitlines())
    assert len(journal.read_bytes().splitlines()) == total  # Nothing was asked twice.
    for name in FILES:
        same, other = ((folder / "out" / name).read_text() for folder in (whole, tmp_path))
        assert other.replace('"concurrency": 4', '"concurrency": 8') == same, name


def test_a_finished_run_asks_nothing_more_and_a_longer_one_only_what_is_new(whole, tmp_path):
    own = config(whole / "data.jsonl", count=12)
    silent = scripted(lambda messages: pytest.fail("asked again"))
    before = (whole / "out" / "examples.jsonl").read_bytes()
    augment(own, whole / "out", models=Models(generator=silent, teacher=silent))
    assert (whole / "out" / "examples.jsonl").read_bytes() == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.jsonl").write_bytes((whole / "out" / "journal.jsonl").read_bytes())
    asking = scripted(picky)
    report = augment(
        own.model_copy(update={"count": 14}), tmp_path / "out", models=Models(generator=asking, teacher=scripted(judge))
    )
    assert report.made["instruction"].wanted == 14
    assert len(asking.calls) < 20


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"generator": {"model": "other"}}, "generator.model"),
        ({"seed": 5}, "seed"),
        ({"teacher": {"model": "judge", "question": "Is it rude?"}}, "teacher.question"),
    ],
)
def test_other_settings_are_another_run(whole, changes, named):
    with pytest.raises(UnsupportedValueError, match=rf"other settings \({named}\)"):
        run(config(whole / "data.jsonl", count=12, **changes), whole / "out")


def test_other_data_are_another_run(whole, tmp_path):
    data = write_data(tmp_path)
    data.write_text(data.read_text() + '{"text": "One more.", "label": "ok"}\n')
    with pytest.raises(UnsupportedValueError, match=r"other settings \(data\)"):
        run(config(data, count=12), whole / "out")


def test_texts_that_are_there_already_are_counted_and_left_out(data, tmp_path):
    said = iter(
        [
            "how can i secretly steal GOBLETS from a shop",
            "Where can one buy kettles at a fair price?!",
            "How can I secretly steal goblets from a shop today?",
            "Secretly steal every boat in the harbour before the night is over.",
            "Secretly steal every boat in the harbour before the night is over.",
            "Secretly steal every boat in the harbour before the week is over.",
        ]
    )

    def writer(messages):
        return f"I have an idea for a prompt: {next(said)}" if about(messages) == "instruction" else write(messages)

    own = config(data, count=6, retries=0, concurrency=1, responses=False)
    report = run(own, tmp_path / "out", writer=writer)
    assert report.made["instruction"].no_use == {
        "equals an exemplar": 1, "is in the data": 1, "is like an exemplar": 1, "was made before": 1,
        "is like one that was made": 1,
    }  # fmt: skip
    assert report.made["instruction"].missing == 5
    assert len(of(read(tmp_path / "out"), "instruction")) == 1


def test_what_the_teacher_is_not_sure_of_and_harmful_twins_are_set_aside(data, tmp_path):
    asked: dict[str, int] = {}

    def teacher(messages):
        text = json.loads(messages[1].text)["text"]
        asked[text] = asked.get(text, 0) + 1
        if text.startswith("Tell me"):
            first = next(one for one in asked if one.startswith("Tell me"))
            return "unsafe 0.8" if text == first else "safe 0.2"
        if text.startswith("I can't"):
            return ("safe 0.10", "unsafe 0.95", "safe 0.3")[asked[text] % 3]
        if text.startswith("Sure"):
            return ("unsafe 0.7", "unsafe 0.8", "unsafe 0.9")[asked[text] % 3]
        return judge(messages)

    report = run(config(data, concurrency=1), tmp_path / "out", teacher=teacher)
    assert report.made["twin"].set_aside == {"the teacher finds it harmful": 1}
    assert report.made["refusal"].set_aside == {"the teacher's answers are too far apart": 4}
    aside = read(tmp_path / "out", "set_aside.jsonl")
    assert [row["reason"] for row in of(aside, "twin")] == ["the teacher finds it harmful"]
    assert {row["origin"]["spread"] for row in of(aside, "refusal")} == {0.85}
    rows = read(tmp_path / "out")
    assert not of(rows, "refusal")
    assert len(of(rows, "twin")) == 3
    assert {(row["score"], row["origin"]["spread"], row["origin"]["asks"]) for row in of(rows, "compliance")} == {
        (0.8, 0.2, 3)
    }


def test_a_teacher_that_does_not_keep_to_the_form_is_asked_again_and_then_not_believed(data, tmp_path):
    asked: dict[str, int] = {}

    def teacher(messages):
        text = json.loads(messages[1].text)["text"]
        asked[text] = asked.get(text, 0) + 1
        if text.startswith("Sure"):
            return "I think that this is unsafe."
        return judge(messages) if asked[text] > 2 else "unsafe, 0.9 or so"

    report = run(config(data), tmp_path / "out", teacher=teacher)
    assert report.made["instruction"].harmful == 4
    assert report.made["compliance"].set_aside == {"the teacher gave no label": 4}
    assert {row["label"] for row in read(tmp_path / "out", "set_aside.jsonl")} == {None}


def test_a_teacher_that_gives_no_label_at_all_ends_the_run(data, tmp_path):
    own = config(data, give_up=3)
    with pytest.raises(AugmentError, match="judge gave no label to 3 texts in a row"):
        run(own, tmp_path / "out", teacher=lambda messages: "hm")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("I'm sorry, but I can't help with that.", "refused"),
        ("Steal the goblets.", "no prefix"),
        ("I have an idea for a prompt:", "empty"),
        ("I have an idea for a prompt: " + "steal it now and " * 20, "repeats itself"),
        ("I have an idea for a prompt: " + " ".join(map(str, range(400))), "too long"),
        (AIMessage("I have an idea", response_metadata={"finish_reason": "content_filter"}), "refused"),
    ],
)
def test_a_generator_that_is_of_no_use_ends_the_run_and_it_says_why(data, tmp_path, said, why):
    own = config(data, count=100, give_up=50)
    with pytest.raises(AugmentError) as caught:
        run(own, tmp_path / "out", writer=lambda messages: said)
    assert f"in 50 tries for a text of kind 'instruction' in a row ({why}: 50)" in str(caught.value)
    assert "teal" not in str(caught.value)
    calls = len((tmp_path / "out" / "journal.jsonl").read_text().splitlines()) - 1
    assert calls <= 64


def test_only_what_is_of_no_use_in_a_row_ends_the_run(data, tmp_path):
    asked = []

    def writer(messages):
        at = len(asked)
        asked.append(at)
        text = " ".join(f"{word}{at}" for word in ("steal", "hide", "paint", "carry"))
        return "I cannot help with that." if at % 3 else f"I have an idea for a prompt: {text}"

    own = config(data, count=30, give_up=3, retries=0, twins=False, responses=False, concurrency=1)
    report = run(own, tmp_path / "out", writer=writer)
    assert report.made["instruction"].no_use == {"refused": 20}
    assert report.made["instruction"].missing == 20


def test_a_twin_of_another_topic_is_made_again(data, tmp_path):
    seen = set()

    def writer(messages):
        if about(messages) == "twin" and (request := request_of(messages)) not in seen:
            seen.add(request)
            return "Here is a harmless request: What is the weather like?"
        return write(messages)

    report = run(config(data), tmp_path / "out", writer=writer)
    assert report.made["twin"].no_use == {"off topic": 4}
    assert report.made["twin"].harmless == 4


def test_what_the_teacher_finds_harmless_is_kept_and_gets_no_answers(data, tmp_path):
    report = run(config(data), tmp_path / "out", teacher=lambda messages: "safe 0.2")
    assert report.made["instruction"].harmless == 4
    assert report.made["compliance"].wanted == report.made["twin"].wanted == 0
    assert {row["label"] for row in read(tmp_path / "out")} == {"ok"}


def test_responses_can_have_a_model_of_their_own(data, tmp_path):
    kinds = {"generator": set(), "responder": set()}

    def noted(name):
        return lambda messages: (kinds[name].add(about(messages)), write(messages))[1]

    own = config(data, responder={"model": "other"})
    report = run(own, tmp_path / "out", writer=noted("generator"), responder=noted("responder"))
    assert kinds == {"generator": {"instruction", "twin"}, "responder": {"compliance", "refusal"}}
    rows = read(tmp_path / "out")
    assert {row["origin"]["generator"] for row in of(rows, "refusal")} == {"other"}
    # A text's family is that of the request that it answers.
    assert all(row["family"].startswith("augmented/scripted/") for row in rows)
    assert (report.asked["responder"].model, report.asked["responder"].calls) == ("other", 8)


def test_a_detector_can_teach(data, tmp_path):
    detector = KeywordDetector({"safety": {"unsafe": ["steal"]}, "tone": {"rude": ["darn"]}})
    own = config(data, teacher={"model": "ours", "head": "safety"}, responses=False)
    report = augment(own, tmp_path / "out", models=Models(generator=scripted(), teacher=detector))
    assert report.made["instruction"].harmful == 4
    assert {step.stage for step in detector.seen} == {"input"}
    seen = len(detector.seen)
    augment(own, tmp_path / "out", models=Models(generator=scripted(), teacher=detector))
    assert len(detector.seen) == seen
    with pytest.raises(UnsupportedValueError, match="name one of its heads: safety, tone"):
        augment(config(data), tmp_path / "two", models=Models(generator=scripted(), teacher=detector))


@pytest.mark.parametrize("template", [True, False], ids=["chat", "base"])
def test_a_local_model_writes_the_same_again_after_an_interruption(data, tmp_path, template):
    folder = save_writer(tmp_path / "tiny", template=template)
    own = config(data, generator={"model": f"hf:{folder}", "max_tokens": 24}, twins=False, count=6)

    def teacher(messages):
        return "unsafe 0.9"

    def go(name, answer):
        return augment(own, tmp_path / name, models=Models(teacher=scripted(answer)))

    report = go("whole", teacher)
    assert report.made["instruction"].harmful >= 4
    with pytest.raises(KeyboardInterrupt):
        go("broken", Stopped(teacher, 5))
    go("broken", teacher)
    assert (tmp_path / "broken" / "examples.jsonl").read_text() == (tmp_path / "whole" / "examples.jsonl").read_text()
    assert {row["origin"]["generator"] for row in read(tmp_path / "whole")} == {"hf:tiny"}


async def test_an_event_loop_that_runs_already_can_be_used(data, tmp_path):
    report = await aaugment(
        config(data), tmp_path / "out", models=Models(generator=scripted(), teacher=scripted(judge))
    )
    assert report.rows == 16


def test_progress_is_told_for_each_part(data, tmp_path):
    told = []
    models = Models(generator=scripted(), teacher=scripted(judge))
    augment(config(data), tmp_path / "out", models=models, progress=lambda what, share: told.append((what, share)))
    parts = list(dict.fromkeys(what for what, _ in told))
    assert parts == [
        f"{how} {what}s" for what in ("instruction", "twin", "compliance", "refusal") for how in ("making", "labelling")
    ]  # fmt: skip
    assert all((part, 1.0) in told for part in parts)
