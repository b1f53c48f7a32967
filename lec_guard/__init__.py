"""A guardrail that lives inside a LangChain application."""

from lec_guard.chain.runnable import GuardRunnable
from lec_guard.detect.batcher import Batcher
from lec_guard.detect.detector import Detector, LayerDetector
from lec_guard.errors import (
    BundleError,
    DetectorError,
    GuardBlocked,
    LecGuardError,
    PolicyError,
    TenantMismatch,
    UnsupportedValueError,
)
from lec_guard.guard import Guard
from lec_guard.observe.events import EventSink, VerdictEvent
from lec_guard.step import Origin, Outcome, Scores, Span, Stage, Step, ToolRef, Verdict

__all__ = [
    "Batcher",
    "BundleError",
    "Detector",
    "DetectorError",
    "EventSink",
    "Guard",
    "GuardBlocked",
    "GuardRunnable",
    "LayerDetector",
    "LecGuardError",
    "Origin",
    "Outcome",
    "PolicyError",
    "Scores",
    "Span",
    "Stage",
    "Step",
    "TenantMismatch",
    "ToolRef",
    "UnsupportedValueError",
    "Verdict",
    "VerdictEvent",
]
