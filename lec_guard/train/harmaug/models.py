"""What a model is asked, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lec_guard.errors import LecGuardError

Ending = Literal["stop", "length", "refused"]
"""Why an answer ends: it was over, it became too long, or the provider's filter ended it."""

_SURE = 0.5
"""Of the probability of a first word that the known words need together, to say anything."""


class AugmentError(LecGuardError):
    """A model failed for good, or gives nothing that is of use; the message holds no text of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a model is asked.

    Attributes:
        system: What it is told about its part.
        user: What it is to do.
        prefix: What the answer begins with; may be put into its mouth.
        seed: What a local model draws its words by.
        words: Two words, of which the answer begins with one; the model may tell how likely the second one was.
    """

    system: str
    user: str
    prefix: str = ""
    seed: int = 0
    words: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a model said.

    Attributes:
        text: What follows the prefix; all of it where the answer does not begin so.
        prefixed: Whether it begins with the prefix, or was begun so.
        ending: Why it ends.
        share: How likely the second of the two words was, of both; None where the model does not tell.
        tokens_in: Tokens that it read.
        tokens_out: Tokens that it wrote.
    """

    text: str
    prefixed: bool
    ending: Ending
    share: float | None = None
    tokens_in: int
    tokens_out: int


class TextModel(Protocol):
    """Something that writes."""

    async def say(self, prompt: Prompt) -> Said:
        """Answer.

        Args:
            prompt: What is asked.

        Returns:
            What it says.

        Raises:
            Exception: What the provider raises; whether to ask again is for the caller to decide.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Models that are there already, instead of those that a config names; each may be a LangChain chat model too.

    Attributes:
        generator: Writes instructions and their twins.
        responder: Writes responses; None takes the generator that is given here.
        teacher: Labels; may also be a detector.
    """

    generator: Any = None
    responder: Any = None
    teacher: Any = None


def share_of(first: Mapping[str, float], words: tuple[str, str]) -> float | None:
    """How likely the second of two words was, by the likeliest first tokens.

    Args:
        first: Token -> its probability.
        words: The words; a token stands for the one that alone begins with it.

    Returns:
        The share of the second one; None where tokens that stand for neither are likelier.
    """
    found = [0.0, 0.0]
    for token, probability in first.items():
        begun = token.strip().casefold()
        meant = [at for at, word in enumerate(words) if begun and word.startswith(begun)]
        if len(meant) == 1:
            found[meant[0]] += probability
    return found[1] / sum(found) if sum(found) >= _SURE else None


def without_prefix(text: str, prefix: str) -> tuple[str, bool]:
    """Take the beginning off that an answer was to have.

    Args:
        text: The answer.
        prefix: Its beginning; case, quotes and marks around it do not matter.

    Returns:
        What follows, and whether it began so.
    """
    bare = text.lstrip(" \n\t\"'*_#>“”`")
    if prefix and bare[: len(prefix)].casefold() == prefix.casefold():
        return bare[len(prefix) :].lstrip("*_\"'”`").strip(), True
    return text.strip(), False
