"""What a tenant's own traffic scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lec_guard import PolicyError
from lec_guard.policy.calibration import Calibration, read_calibration

OWN = {
    "stage": "input", "windows": 1, "texts": 1000, "families": 2,
    "rates": [0.05, 0.01], "scores": [0.5, 0.6], "worst": [0.06, 0.02],
}  # fmt: skip
WHOLE = {"format": 1, "detector_id": "made@0", "texts": 1000, "heads": {"injection": [OWN]}}


def refused(folder: Path, content: object) -> str:
    file = folder / "own.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(PolicyError) as caught:
        read_calibration(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    return message.removeprefix(f"{file}: ")


def own(**changes: object) -> dict[str, object]:
    return {**WHOLE, "heads": {"injection": [{**OWN, **changes}]}}


def test_what_is_written_is_read_again(tmp_path):
    calibration = Calibration.model_validate(WHOLE)
    (tmp_path / "own.json").write_text(calibration.model_dump_json())
    assert read_calibration(tmp_path / "own.json") == calibration


def test_who_has_the_bytes_already_reads_no_file():
    read = {Path("own.json"): json.dumps(WHOLE).encode()}.__getitem__
    assert read_calibration(Path("own.json"), read) == Calibration.model_validate(WHOLE)


@pytest.mark.parametrize(
    "content",
    ["", "{", json.dumps(WHOLE)[:-20], "[]", "5", json.dumps(WHOLE).replace("0.6", "NaN"), "[" * 5000],
    ids=["empty", "brace", "cut off", "list", "number", "NaN", "nested"],
)
def test_what_is_no_calibration_is_refused(tmp_path, content):
    assert refused(tmp_path, content).endswith("; run lec-guard policy calibrate again")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({**WHOLE, "format": 2}, "format: "),
        ({**WHOLE, "text": "what somebody wrote"}, "text: Extra inputs"),
        (own(texts_of="x"), "heads.injection.0.texts_of: Extra inputs"),
        (own(stage="inputs"), "heads.injection.0.stage: "),
        (own(windows=0), "heads.injection.0.windows: "),
        (own(scores=[0.5]), "every rate needs its score"),
        (own(worst=[0.5]), "every rate needs its score"),
        (own(rates=[0.01, 0.05]), "rates must fall"),
        (own(rates=[0.05, 0.05]), "rates must fall"),
        (own(scores=[0.6, 0.5]), "scores rise with it"),
        (own(scores=[0.5, 1.5]), "heads.injection.0.scores.1: "),
        (own(rates=[], scores=[], worst=[]), "heads.injection.0.rates: "),
        (own(texts=299), "299 texts know of no rate below 0.01"),
        (own(rates=[0.05, 0.0]), "1000 texts know of no rate below 0.003"),
        (own(windows=2), "entries of input must start at 1 window"),
        ({**WHOLE, "heads": {"injection": [OWN, OWN]}}, "in order, each once"),
        ({**WHOLE, "heads": {"injection": [OWN, {**OWN, "windows": 4}, {**OWN, "windows": 2}]}}, "in order, each once"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, content, part):
    assert part in refused(tmp_path, content)


def test_entries_of_several_stages_may_stand_in_any_order(tmp_path):
    entries = [OWN, {**OWN, "stage": "output"}, {**OWN, "windows": 4}, {**OWN, "stage": "output", "windows": 2}]
    (tmp_path / "own.json").write_text(json.dumps({**WHOLE, "heads": {"injection": entries}}))
    assert len(read_calibration(tmp_path / "own.json").heads["injection"]) == 4


def test_a_missing_and_a_giant_file_are_refused(tmp_path):
    with pytest.raises(PolicyError, match="no such file"):
        read_calibration(tmp_path / "nothing.json")
    assert "more than 1048576 bytes" in refused(tmp_path, " " * (1 << 20) + "{}")
