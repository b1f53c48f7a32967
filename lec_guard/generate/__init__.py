"""Inside the model that writes: answers that are steered while they are written."""

from lec_guard.generate.guidance import GuidedCausalLM
from lec_guard.generate.mixing import Guidance
from lec_guard.generate.prompts import PairedPrompts, paired

__all__ = ["Guidance", "GuidedCausalLM", "PairedPrompts", "paired"]
