"""Acting on a verdict: which text may pass."""

from __future__ import annotations

from lec_guard.step import Outcome, Verdict


def act(verdict: Verdict, text: str) -> Outcome:
    """Let a text pass or hold it back.

    Args:
        verdict: The judgement of the text.
        text: The text that was judged.

    Returns:
        The outcome; its text is None on a block.
    """
    match verdict.action:
        case "allow" | "flag":
            return Outcome(verdict=verdict, text=text)
        case "block":
            return Outcome(verdict=verdict, text=None)
