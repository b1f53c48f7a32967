"""Text -> overlapping windows of tokens, each with the characters it covers.

A text is read whole, however long it is: it is tokenised block by block, and nothing is cut off in
silence. What ends the reading is a budget, and then the result says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from lec_guard.detect.normalise import normalise
from lec_guard.errors import DetectorError

_BLOCK = 65_536
"""Characters that go through the tokenizer at once; longer texts are split at white space."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSpec:
    """How a text is cut.

    Attributes:
        size: Tokens in a window, with the tokenizer's special tokens.
        stride: Tokens from the start of a window to the start of the next one.
    """

    size: int
    stride: int


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens that the model reads in one go.

    Attributes:
        ids: Token ids with the special tokens around them.
        start: First character that the tokens cover.
        end: One past the last one.
    """

    ids: list[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the model will read it.

    Attributes:
        windows: Empty where the text holds no token.
        unread: Why part of the text has no window, or None.
    """

    windows: list[Window]
    unread: str | None


class Windower:
    """Cuts texts into windows; holds no state between calls.

    Args:
        tokenizer: A fast tokenizer. Its own truncation and padding are switched off.
        spec: Size and stride of the windows.

    Raises:
        DetectorError: If size and stride leave a gap or no room for text, or the tokenizer can't read.
    """

    def __init__(self, tokenizer: Tokenizer, spec: WindowSpec) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        probe = tokenizer.encode("a", add_special_tokens=True)
        if 0 not in probe.special_tokens_mask:
            raise DetectorError("the tokenizer makes no token of the letter 'a'")
        first = probe.special_tokens_mask.index(0)
        last = len(probe.ids) - probe.special_tokens_mask[::-1].index(0)
        self._prefix, self._suffix = probe.ids[:first], probe.ids[last:]
        self._room = spec.size - len(self._prefix) - len(self._suffix)
        if not 0 < spec.stride <= self._room:
            raise DetectorError(
                f"windows of {spec.size} tokens hold {self._room} tokens of text: "
                f"the stride must lie in 1..{self._room}, not be {spec.stride}"
            )
        self._tokenizer = tokenizer
        self.spec = spec

    def read(self, texts: Sequence[str], budget: int) -> list[Reading]:
        """Cut every text into windows.

        Args:
            texts: The texts, in any form that Python holds.
            budget: Tokens of a text beyond which it is not read at all.

        Returns:
            One reading a text, in order.
        """
        readable = [normalise(text) for text in texts]
        short = [i for i, text in enumerate(readable) if len(text) <= _BLOCK]
        encoded = self._tokenizer.encode_batch([readable[i] for i in short], add_special_tokens=False)
        tokens: dict[int, tuple[list[int], list[tuple[int, int]]]] = {
            i: (encoding.ids, encoding.offsets) for i, encoding in zip(short, encoded, strict=True)
        }
        return [
            self._cut(text, *(tokens.get(i) or self._long(text, budget)), budget) for i, text in enumerate(readable)
        ]

    def _long(self, text: str, budget: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise block by block, and stop once the budget is passed."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for at, block in _blocks(text):
            encoding = self._tokenizer.encode(block, add_special_tokens=False)
            ids += encoding.ids
            offsets += [(start + at, end + at) for start, end in encoding.offsets]
            if len(ids) > budget:
                break
        return ids, offsets

    def _cut(self, text: str, ids: list[int], offsets: list[tuple[int, int]], budget: int) -> Reading:
        if len(ids) > budget:
            return Reading([], f"the text has more than {budget} tokens, the budget of a step")
        if not ids:
            blank = not text or text.isspace()
            return Reading([], None if blank else "the text has characters but no token that the model can read")
        starts = list(range(0, max(len(ids) - self._room, 0), self.spec.stride))
        # The last window ends with the text and is as full as the others: a short tail alone says little.
        starts.append(max(len(ids) - self._room, 0))
        return Reading([self._window(ids, offsets, start) for start in starts], None)

    def _window(self, ids: list[int], offsets: list[tuple[int, int]], start: int) -> Window:
        stop = min(start + self._room, len(ids))
        return Window([*self._prefix, *ids[start:stop], *self._suffix], offsets[start][0], offsets[stop - 1][1])


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Offset and text of each block; borders lie at white space where there is some near."""
    at = 0
    while at < len(text):
        end = min(at + _BLOCK, len(text))
        if end < len(text):
            border = max(text.rfind(space, at + _BLOCK // 2, end) for space in " \n\t")
            end = border if border > at else end
        yield at, text[at:end]
        at = end
