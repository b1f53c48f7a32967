"""What a text goes through before it is cut into tokens.

Every change keeps the number of characters, so that offsets into the result are offsets into the text.
"""

from __future__ import annotations

import re

VERSION = "1"
"""Part of the extractor's id: heads fitted under one normaliser don't fit another."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def normalise(text: str) -> str:
    """Make a text readable for the tokenizer.

    A lone surrogate has no UTF-8 form, and the tokenizer refuses a whole text for one; each becomes U+FFFD.

    Args:
        text: Any Python string.

    Returns:
        A string of the same length that can be encoded.
    """
    return _SURROGATE.sub("\ufffd", text)
