"""The API of the tests."""

from __future__ import annotations

import pytest

from tests.serve.api.made import Site


@pytest.fixture
def api(tmp_path, policies, keywords):
    made = Site(tmp_path, policies, keywords)
    yield made
    made.close()
