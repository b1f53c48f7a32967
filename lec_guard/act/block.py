"""Acting on a verdict: which text may pass."""

from __future__ import annotations

from dataclasses import replace

from lec_guard.step import Outcome, Verdict


def act(verdict: Verdict, text: str) -> Outcome:
    """Let a text pass or hold it back.

    Nothing rewrites a text or asks anybody yet. What would have to be is held back: the next action is a block.

    Args:
        verdict: The judgement of the text.
        text: The text that was judged.

    Returns:
        The outcome; its text is None where it may not pass, and its verdict is a block then.
    """
    match verdict.action:
        case "allow" | "flag":
            return Outcome(verdict=verdict, text=text)
        case "rewrite" | "escalate":
            return Outcome(verdict=replace(verdict, action="block"), text=None)
        case "block":
            return Outcome(verdict=verdict, text=None)
