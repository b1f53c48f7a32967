"""A policy that suits any detector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from lec_guard.detect.detector import Detector
from lec_guard.errors import PolicyError
from lec_guard.guard import Guard


@contextmanager
def policy_for(detector: Detector) -> Iterator[Path | None]:
    """A policy for a detector: the packaged one, or where that reads heads that it lacks one that reads all it has.

    Args:
        detector: The detector.

    Yields:
        What `Guard.from_policies` takes; a file lives no longer than this context.
    """
    try:
        Guard.from_policies(None, detector=detector)
    except PolicyError:
        rules = [
            {"name": head, "stages": ["input"], "head": head, "threshold": 0.99, "action": "flag"}
            for head in detector.labels
        ]
        with TemporaryDirectory() as folder:
            file = Path(folder) / "policy.yaml"
            file.write_text(yaml.safe_dump({"message": "No.", "rules": rules}), encoding="utf-8")
            yield file
    else:
        yield None
