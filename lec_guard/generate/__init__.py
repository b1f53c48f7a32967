"""Inside the model that writes: guarded by its own layers, and steered while it does."""

from lec_guard.generate.adapters import TenantAdapters
from lec_guard.generate.chat import GuardedChatModel
from lec_guard.generate.detector import InsideDetector
from lec_guard.generate.guarded import GuardedAnswer, GuardedCausalLM
from lec_guard.generate.guidance import GuidedCausalLM
from lec_guard.generate.local import LocalChatModel
from lec_guard.generate.mixing import Guidance
from lec_guard.generate.prompts import PairedPrompts, paired

__all__ = [
    "GuardedAnswer",
    "GuardedCausalLM",
    "GuardedChatModel",
    "Guidance",
    "GuidedCausalLM",
    "InsideDetector",
    "LocalChatModel",
    "PairedPrompts",
    "TenantAdapters",
    "paired",
]
