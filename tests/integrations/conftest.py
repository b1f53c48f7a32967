"""Libraries that would call home are told not to before anything imports them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

from tests.integrations.guards import Guarded


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    """A guard, its detector and its events."""
    return Guarded(tmp_path)
