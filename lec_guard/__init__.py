"""A guardrail that lives inside a LangChain application."""

from lec_guard.act.base import Case, Escalator, Reply, Rewriter, Rewriting, Subject
from lec_guard.act.effects import Effects
from lec_guard.chain.runnable import GuardRunnable
from lec_guard.detect.batcher import Batcher
from lec_guard.detect.composite import CompositeDetector
from lec_guard.detect.detector import Detector
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.pii import PiiDetector
from lec_guard.errors import (
    BundleError,
    DetectorError,
    EscalationPending,
    GuardBlocked,
    LecGuardError,
    OverloadError,
    PolicyError,
    SinkError,
    TenantMismatch,
    UnsupportedValueError,
)
from lec_guard.guard import Guard
from lec_guard.observe.events import (
    BypassEvent,
    EffectEvent,
    ErrorEvent,
    EscalationResolved,
    Event,
    EventSink,
    PolicyReloaded,
    ReloadRefused,
    VerdictEvent,
)
from lec_guard.step import Edit, Judgement, Origin, Outcome, Scores, Span, Stage, Step, ToolRef, Verdict

__all__ = [
    "Batcher",
    "BundleError",
    "BypassEvent",
    "Case",
    "CompositeDetector",
    "Detector",
    "DetectorError",
    "Edit",
    "EffectEvent",
    "Effects",
    "ErrorEvent",
    "EscalationPending",
    "EscalationResolved",
    "Escalator",
    "Event",
    "EventSink",
    "Guard",
    "GuardBlocked",
    "GuardRunnable",
    "Judgement",
    "LayerDetector",
    "LecGuardError",
    "Origin",
    "Outcome",
    "OverloadError",
    "PiiDetector",
    "PolicyError",
    "PolicyReloaded",
    "ReloadRefused",
    "Reply",
    "Rewriter",
    "Rewriting",
    "Scores",
    "SinkError",
    "Span",
    "Stage",
    "Step",
    "Subject",
    "TenantMismatch",
    "ToolRef",
    "UnsupportedValueError",
    "Verdict",
    "VerdictEvent",
]
