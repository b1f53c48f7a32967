"""Test doubles for applications that use the guard: no weights, no network, no surprises. And the conformance probe."""

from lec_guard.testing.agents import agent_with as agent_with
from lec_guard.testing.detectors import MOST_FOUND as MOST_FOUND
from lec_guard.testing.detectors import FailingDetector as FailingDetector
from lec_guard.testing.detectors import KeywordDetector as KeywordDetector
from lec_guard.testing.detectors import SlowDetector as SlowDetector
from lec_guard.testing.detectors import StatedDetector as StatedDetector
from lec_guard.testing.detectors import WatchedDetector as WatchedDetector
from lec_guard.testing.models import ScriptedChatModel as ScriptedChatModel
from lec_guard.testing.paths import GOALS as GOALS
from lec_guard.testing.paths import METHODS as METHODS
from lec_guard.testing.paths import PATHS as PATHS
from lec_guard.testing.paths import PathResult as PathResult
from lec_guard.testing.probing import ATTACK as ATTACK
from lec_guard.testing.probing import HARMLESS as HARMLESS
from lec_guard.testing.probing import probe as probe
from lec_guard.testing.rig import Rig as Rig
