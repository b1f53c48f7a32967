"""What is made once: a spaCy model, a tiny model, and adapters that were really tuned to guided pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lec_guard.train.pii import TuneConfig, TuneReport, tune
from tests.train.pii.made import pairs, save_lines, save_model, save_names


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_names(tmp_path_factory.mktemp("spacy") / "by_heart")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, TuneReport]:
    """Adapters that under the one system prompt tell a name, and under the other don't."""
    folder = tmp_path_factory.mktemp("tuned")
    data = save_lines(folder / "pairs.jsonl", pairs(4))
    config = TuneConfig.read(None, {"model": model, "pairs": data, "rate": 0.01, "epochs": 25, "save_every": 1000})
    report = tune(config, folder / "adapters")
    assert isinstance(report, TuneReport)
    return folder / "adapters", report
