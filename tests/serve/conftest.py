"""The site of the tests."""

from __future__ import annotations

import pytest

from lec_guard.detect.remote import RemoteDetector
from tests.serve.made import Site


@pytest.fixture
def site(tmp_path, policies):
    made = Site(tmp_path, policies)
    yield made
    made.close()


@pytest.fixture
def loaded(monkeypatch):
    """Closes detectors that are loaded by their URLs."""
    made, load = [], RemoteDetector.load

    def noted(url: str) -> RemoteDetector:
        made.append(load(url))
        return made[-1]

    monkeypatch.setattr(RemoteDetector, "load", noted)
    yield
    for one in made:
        one.close()
