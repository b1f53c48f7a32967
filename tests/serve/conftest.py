"""The site of the tests."""

from __future__ import annotations

import pytest

from tests.serve.made import Site


@pytest.fixture
def site(tmp_path, policies):
    made = Site(tmp_path, policies)
    yield made
    made.close()
