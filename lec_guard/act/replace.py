"""A text gives way to another one."""

from __future__ import annotations

from lec_guard.act.base import Rewriter, Rewriting, Subject
from lec_guard.step import Edit


class Replace(Rewriter):
    """Replaces the whole text. Safe to share between threads.

    Args:
        text: What stands there instead.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def rewrite(self, subject: Subject) -> Rewriting:
        """Replace the text.

        Args:
            subject: The text; its spans do not matter.

        Returns:
            One edit over all of it, of an empty text too.
        """
        return Rewriting(edits=(Edit(start=0, end=len(subject.step.text), replacement=self._text),))
