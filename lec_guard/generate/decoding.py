"""Tokens that come one by one -> pieces of text that no later token changes."""

from __future__ import annotations

from collections.abc import Collection

from transformers import PreTrainedTokenizerBase

_UNDECIDED = 4
"""Tokens at the end of a text that what follows may change: a character has at most so many bytes."""

_BROKEN = "\ufffd"
"""What bytes that are no character, or not yet one, are decoded to."""


class Decoder:
    """Tokens to text, as soon as nothing that follows can change it. It belongs to one answer.

    Args:
        tokenizer: Of the model.
        keep: Special tokens whose text is given; that of others is left out.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keep: Collection[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._left_out = special_ids(tokenizer) - tokens_of(keep, tokenizer)
        # Those before give the others their place: some decoders treat the first token of a text in another way.
        self._before: list[int] = []
        self._said = ""
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """Take a token.

        Args:
            token: Its id.

        Returns:
            What can be read now that could not before; empty where a character is not whole yet.
        """
        if token in self._left_out:
            return ""
        self._pending.append(token)
        text = self._after(self._pending)
        if text and not text.endswith(_BROKEN):
            return self._given(len(self._pending), text)
        # Bytes that are no character may go on for long. Those at a distance from the end stay what they are.
        first = len(self._pending) - _UNDECIDED
        if first > 0:
            part = self._after(self._pending[:first])
            if part + self._decoded(self._pending[first:]) == text:
                return self._given(first, part)
        return ""

    def rest(self) -> str:
        """What is left at the end, whether it makes characters or not."""
        return self._given(len(self._pending), self._after(self._pending)) if self._pending else ""

    def _after(self, tokens: list[int]) -> str:
        whole = self._decoded(self._before + tokens)
        # Not so where bytes are taken together with earlier ones that were characters without them.
        return whole[len(self._said) :] if whole.startswith(self._said) else self._decoded(tokens)

    def _given(self, tokens: int, text: str) -> str:
        self._before, self._pending = self._pending[:tokens], self._pending[tokens:]
        self._said = self._decoded(self._before)
        return text

    def _decoded(self, tokens: list[int]) -> str:
        return str(
            self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if tokens
            else ""
        )


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that stand for no text.

    Args:
        tokenizer: Any of transformers.

    Returns:
        Their ids.
    """
    added = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    return frozenset(added | set(tokenizer.all_special_ids))


def tokens_of(texts: Collection[str], tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens with one of some texts.

    Args:
        texts: The texts.
        tokenizer: Any of transformers.

    Returns:
        Their ids.
    """
    return frozenset(
        token for token in special_ids(tokenizer) if tokenizer.convert_ids_to_tokens(token) in frozenset(texts)
    )
