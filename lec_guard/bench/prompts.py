"""Texts of English words in sentences, with a given number of tokens, no two of them alike."""

from __future__ import annotations

import random

from tokenizers import Tokenizer

from lec_guard.detect.bundle import Bundle
from lec_guard.errors import DetectorError

_WORDS = (
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state",
    "family", "student", "group", "country", "problem", "hand", "part", "place", "case", "week", "company",
    "system", "program", "question", "work", "government", "number", "night", "point", "home", "water", "room",
    "mother", "area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word",
    "business", "issue", "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game",
    "line", "end", "member", "law", "car", "city", "name", "president", "team", "minute", "idea", "body", "back",
    "parent", "face", "others", "level", "office", "door", "health", "person", "art", "war", "history", "party",
    "result", "change", "morning", "reason", "research", "girl", "guy", "moment", "air",
)  # fmt: skip

_DISGUISED = "1gn0r3 pr3v10us"
"""Two words in leet: enough for the normaliser to read a text a second time."""

_SHORTEST, _LONGEST = 6, 24
"""Words of a sentence, where there is room for so many: as in prose, and as a detector reads sentence by sentence."""

_FEWEST_WORDS = 12
_TRIES = 1000


class Prompts:
    """Endless new texts; the same ones for the same seed.

    Args:
        tokenizer: What counts the tokens; its truncation and padding are switched off.
        seed: Which texts.
    """

    def __init__(self, tokenizer: Tokenizer, *, seed: int = 0) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._random = random.Random(seed)  # noqa: S311 - repeatable, and no secret
        self._given: set[str] = set()
        self._special = self.count("")
        before = self.count("the")
        costs = {word: self.count(f"the {word}") - before for word in _WORDS}
        # Words of one token, where the tokenizer has enough of them: then every length can be met.
        most = max(sorted(costs.values())[_FEWEST_WORDS - 1], 1)
        self._costs = {word: max(cost, 1) for word, cost in costs.items() if cost <= most}
        self._cost = most
        self._stop = max(self.count("the.") - before, 1)

    @classmethod
    def of(cls, bundle: Bundle, *, seed: int = 0) -> Prompts:
        """Texts for the tokenizer of a bundle.

        Args:
            bundle: The bundle.
            seed: Which texts.

        Returns:
            A source of texts.

        Raises:
            BundleError: If its weights are missing or altered.
        """
        return cls(Tokenizer.from_file(str(bundle.base_folder() / "tokenizer.json")), seed=seed)

    def count(self, text: str) -> int:
        """Tokens of a text, with the special ones.

        Args:
            text: The text.
        """
        return len(self._tokenizer.encode(text).ids)

    def text(self, tokens: int, *, disguised: bool = False) -> str:
        """A text that was not given before.

        Args:
            tokens: How many tokens it shall have, with the special ones; with a tokenizer that splits common words
                it may have a few fewer.
            disguised: Whether it begins with words that the normaliser undoes.

        Returns:
            The text.

        Raises:
            DetectorError: If there are not so many different texts.
        """
        for _ in range(_TRIES):
            text = self._draw(tokens, _DISGUISED.split() if disguised else [])
            if text not in self._given:
                self._given.add(text)
                return text
        raise DetectorError(f"there are no more new texts of {tokens} tokens; measure longer ones")

    def _draw(self, tokens: int, start: list[str]) -> str:
        left = tokens - self._special
        sentences: list[list[str]] = []
        while not sentences or left >= self._cost + self._stop:
            room = self._room(left)
            words = start or [self._random.choice(list(self._costs))]
            # The costs are those of words after others.
            first = self._costs[words[0]] if sentences else self.count(" ".join(words)) - self._special
            spent, start = first + self._stop, []
            while fitting := [word for word, cost in self._costs.items() if cost <= room - spent]:
                words.append(self._random.choice(fitting))
                spent += self._costs[words[-1]]
            sentences.append(words)
            left -= spent  # What a sentence leaves over is the next one's.
        while self.count(text := _prose(sentences)) > tokens and (len(sentences) > 1 or len(sentences[0]) > 1):
            sentences[-1].pop()
            if not sentences[-1]:
                sentences.pop()
        return text

    def _room(self, left: int) -> int:
        """Tokens for the next sentence, so that none that follows is too short."""
        shortest, longest = (self._cost * words + self._stop for words in (_SHORTEST, _LONGEST))
        if left <= longest:
            return left
        return self._random.randint(shortest, min(longest, left - shortest))


def _prose(sentences: list[list[str]]) -> str:
    return " ".join(f"{' '.join(words)}." for words in sentences)
