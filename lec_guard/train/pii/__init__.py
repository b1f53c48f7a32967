"""Answers without personal data: pairs to learn from, ORPO with LoRA, and a measure of both (arXiv 2412.06846)."""

from lec_guard.train.pii.config import GeneratorConfig as GeneratorConfig
from lec_guard.train.pii.config import PiiDataConfig as PiiDataConfig
from lec_guard.train.pii.config import PiiEvalConfig as PiiEvalConfig
from lec_guard.train.pii.config import PiiRules as PiiRules
from lec_guard.train.pii.config import TuneConfig as TuneConfig
from lec_guard.train.pii.costs import estimate_pairs as estimate_pairs
from lec_guard.train.pii.evaluate import PiiEvaluation as PiiEvaluation
from lec_guard.train.pii.evaluate import evaluate_pii as evaluate_pii
from lec_guard.train.pii.run import PiiDataReport as PiiDataReport
from lec_guard.train.pii.run import PiiSamples as PiiSamples
from lec_guard.train.pii.run import amake_pairs as amake_pairs
from lec_guard.train.pii.run import make_pairs as make_pairs
from lec_guard.train.pii.tune import TuneError as TuneError
from lec_guard.train.pii.tune import TuneReport as TuneReport
from lec_guard.train.pii.tune import tune as tune
