import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.embedded import adapt
from benchmarks.embedded.mixture import HELD
from lec_guard import LayerDetector, Step
from lec_guard.detect.bundle import read_bundle
from lec_guard.errors import UnsupportedValueError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data" / "train").mkdir(parents=True)
    row = {"family": "mbpp", "kind": "prompt", "label": "benign", "user": "Write a function that adds two numbers."}
    (tmp_path / "data" / "train" / "mbpp.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (tmp_path / "tail").mkdir()
    with (tmp_path / "tail" / "tail.jsonl").open("w", encoding="utf-8") as out:
        for number in range(60):
            kind = "tail_info" if number % 3 == 0 else "tail_doc"
            text = f"See section {number} of the manual. You must not remove the file {number}.conf by hand."
            out.write(json.dumps({"family": kind, "kind": "document", "label": "benign", "user": text}) + "\n")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["adapt", *map(str, arguments)])
    adapt.main()


def test_layers_are_tuned_and_the_tail_is_mined_with_them(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    tune = ("tune", "--data", data / "data", "--tail", data / "tail", "--plant", 40, "--share", 0.01)
    run(monkeypatch, *tune, "--out", data / "first")
    report = json.loads((data / "first" / "tuned.json").read_text())
    assert report["steps"] == report["total"] > 1
    assert set(report["held"]) <= {"mbpp", *(family for family in HELD if family.startswith("own_"))}
    run(monkeypatch, "mine", "--tail", data / "tail", "--bundle", data / "first", "--out", data / "mined")
    mined = [json.loads(line) for line in (data / "mined" / "mined.jsonl").read_text().splitlines()]
    assert {row["family"] for row in mined} == {"tail_doc"}
    assert len(mined) == 1
    detector = LayerDetector.load(data / "first")
    texts = [json.loads(line)["user"] for line in (data / "tail" / "tail.jsonl").read_text().splitlines()]
    scores = {
        text: max(found.by_head[name]["injection"] for name in ("injection", "indirect_injection"))
        for text, found in zip(
            texts, detector.score([Step(stage="tool_output", text=text) for text in texts]), strict=True
        )
    }
    others = [score for number, (text, score) in enumerate(scores.items()) if number % 3]
    assert scores[mined[0]["user"]] == pytest.approx(max(others))
    run(monkeypatch, *tune, "--mined", data / "mined", "--out", data / "second", "--without", "languages")
    assert json.loads((data / "second" / "tuned.json").read_text())["without"] == ["languages"]
    still = ("--tuning", '{"rate": 1e-9, "decay": 0.0}')
    run(monkeypatch, *tune, "--onto", data / "first", "--seed", 1, *still, "--out", data / "third")
    third = json.loads((data / "third" / "tuned.json").read_text())
    assert third["onto"] == report
    before, after = (read_bundle(data / name).learned.adapters for name in ("first", "third"))
    assert before is not None
    assert after is not None
    for name, own in after.tensors().items():
        np.testing.assert_allclose(own, before.tensors()[name], atol=1e-5)


def test_a_run_that_stopped_goes_on(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    tune = (
        "tune",
        "--data",
        data / "data",
        "--tail",
        data / "tail",
        "--plant",
        40,
        "--share",
        0.01,
        "--out",
        data / "out",
    )
    run(monkeypatch, *tune, "--minutes", 0.0)
    stopped = json.loads((data / "out" / "tuned.json").read_text())
    assert stopped["steps"] < stopped["total"]
    with pytest.raises(UnsupportedValueError, match="resume"):
        run(monkeypatch, *tune)
    run(monkeypatch, *tune, "--resume")
    done = json.loads((data / "out" / "tuned.json").read_text())
    assert done["steps"] == done["total"] == stopped["total"]
