"""Preference pairs from disk, as the tokens that ORPO compares."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.rendering import render
from lec_guard.train.pii.dialogues import Message, messages_of, rows_of
from lec_guard.train.rows import Mistakes

_HELLO: Message = {"role": "user", "content": "Hello."}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to a conversation.

    Attributes:
        prompt: The conversation, the user's message last, without what is asked for.
        prefix: What both answers begin with.
        chosen: The answer that is to become likelier.
        rejected: The one that is to become less likely.
        dialogue: The conversation's name.
        swapped: Whether the answers changed places, under the negative system prompt.
        asked: What the system prompt asks for besides; None for nothing.
    """

    prompt: tuple[Message, ...]
    prefix: str
    chosen: str
    rejected: str
    dialogue: str
    swapped: bool
    asked: str | None


@dataclass(frozen=True, slots=True)
class Pairs:
    """All pairs of a run.

    Attributes:
        all: The pairs, in the order of the files.
        positive: What system prompts ask for; None where pairs are not guided.
        negative: The opposite of it.
        digest: A hash over all of them.
    """

    all: tuple[Pair, ...]
    positive: str | None
    negative: str | None
    digest: str


@dataclass(slots=True)
class Fitted:
    """Pairs as tokens, and what became of those that did not fit.

    Attributes:
        rows: For the trainer, by the names of its columns.
        pairs: What they are of.
        shortened: Pairs whose oldest messages were left out.
        cut: Pairs with an answer that was cut.
        left_out: Why others were left out -> how many.
    """

    rows: list[dict[str, list[int]]] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    shortened: int = 0
    cut: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def read_pairs(paths: Sequence[Path]) -> Pairs:
    """Read pairs.

    Args:
        paths: JSON lines, or folders of them.

    Returns:
        The pairs.

    Raises:
        UnsupportedValueError: If a file or a row can't be read (one line a mistake), or there is none.
    """
    mistakes, pairs = Mistakes(), list[Pair]()
    for row in rows_of(paths, ["prompt", "chosen", "rejected"], ["prefix", "dialogue", "swapped", "asked"], mistakes):
        try:
            pairs.append(_pair(row.values))
        except ValueError as error:
            mistakes.add(row.source, str(error))
    mistakes.stop()
    if not pairs:
        raise UnsupportedValueError(f"{', '.join(map(str, paths))}: no pair in it")
    asked = {
        swapped: {pair.asked for pair in pairs if pair.swapped == swapped and pair.asked is not None}
        for swapped in (False, True)
    }
    for side in asked.values():
        if len(side) > 1:
            raise UnsupportedValueError(
                f"the pairs have system prompts of {len(side)} kinds: learn from those of one run, or of equal settings"
            )
    whole = json.dumps([[*pair.prompt, pair.asked, pair.prefix, pair.chosen, pair.rejected] for pair in pairs])
    return Pairs(
        tuple(pairs),
        next(iter(asked[False]), None),
        next(iter(asked[True]), None),
        hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest(),
    )


def fit(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, *, max_prompt: int, max_length: int) -> Fitted:
    """Write pairs down as tokens, and cut what is too long.

    The prompt is to the token what a model is given when it answers (`lec_guard.generate.paired`); what is learnt is
    what it is to write behind it, and to end there.

    Args:
        pairs: The pairs.
        tokenizer: With a chat template and a token that ends an answer.
        max_prompt: Tokens of a prompt, at most.
        max_length: Tokens of a prompt and an answer, at most.

    Returns:
        The rows, and what was left out.

    Raises:
        UnsupportedValueError: If the chat template can't write a conversation.
    """
    fitted, end = Fitted(), _end(tokenizer)
    for pair in pairs:
        messages = list(pair.prompt)
        begun = content_ids(tokenizer, pair.prefix)
        # Of a long conversation what was said last counts; the system prompt always does.
        first = 1 if messages[0]["role"] == "system" else 0
        shortened = False
        while True:
            given = render(tokenizer, messages, asked=pair.asked).ids
            if len(given) + len(begun) <= max_prompt or len(messages) <= first + 2:
                break
            del messages[first : first + 2]
            shortened = True
        if len(given) + len(begun) > max_prompt:
            fitted.left_out[f"the prompt has more than {max_prompt} tokens"] += 1
            continue
        row: dict[str, list[int]] = {}
        cut = False
        for side in ("chosen", "rejected"):
            answer = content_ids(tokenizer, f"{pair.prefix}{getattr(pair, side)}")
            # Where the last token of the beginning grew by what follows, it is learnt as well.
            shared = next(
                (at for at, (one, other) in enumerate(zip(begun, answer, strict=False)) if one != other), None
            )
            learnt = len(given) + (min(len(begun), len(answer)) if shared is None else shared)
            ids = [*given, *answer, *end]
            cut |= len(ids) > max_length
            row[f"{side}_input_ids"] = ids[:max_length]
            row[f"{side}_attention_mask"] = [1] * len(ids[:max_length])
            row[f"{side}_labels"] = [-100] * learnt + ids[learnt:max_length]
        if row["chosen_labels"] == row["rejected_labels"]:
            fitted.left_out["both answers are the same to the model"] += 1
            continue
        fitted.shortened += shortened
        fitted.cut += cut
        fitted.rows.append(row)
        fitted.pairs.append(pair)
    return fitted


def content_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Write down what somebody says as text, whatever it says.

    Args:
        tokenizer: With a chat template.
        text: What is said.

    Returns:
        The tokens that it has in a conversation.
    """
    text = text.strip()
    if not text:
        return []
    found = render(tokenizer, [_HELLO, {"role": "assistant", "content": text}])
    span = next(one for one in found.spans if one.message == 1)
    return found.ids[span.start : span.stop]


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a model writes to end an answer: the template's own token for that, and the tokenizer's."""
    tails = []
    for following in ([], [_HELLO]):
        found = render(tokenizer, [_HELLO, {"role": "assistant", "content": "Hello."}, *following])
        tails.append(found.ids[next(one for one in found.spans if one.message == 1).stop :])
    eos, special = int(cast("int", tokenizer.eos_token_id)), set(tokenizer.all_special_ids)
    special |= {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
    # What comes next differs; before it stands the end.
    both = bool(tails[0] and tails[1]) and tails[0][0] == tails[1][0]
    if both and tails[0][0] in special and tails[0][0] != eos:
        return [tails[0][0], eos]
    return [eos]


def _pair(values: Any) -> Pair:
    prompt = tuple(messages_of(values["prompt"], last="user"))
    for key in ("chosen", "rejected"):
        if not isinstance(values[key], str) or not values[key].strip():
            raise ValueError(f"its {key!r} is no text")
    if values["chosen"].strip() == values["rejected"].strip():
        raise ValueError("its answers are the same")
    prefix, asked, swapped = values.get("prefix") or "", values.get("asked"), values.get("swapped") or False
    if not isinstance(prefix, str) or not isinstance(asked, str | None) or not isinstance(swapped, bool):
        raise ValueError("its 'prefix' and 'asked' are texts, and 'swapped' is true or false")
    return Pair(
        prompt=_without(prompt, asked),
        prefix=prefix.lstrip(),
        chosen=values["chosen"],
        rejected=values["rejected"],
        dialogue=str(values.get("dialogue") or ""),
        swapped=swapped,
        asked=asked,
    )


def _without(prompt: tuple[Message, ...], asked: str | None) -> tuple[Message, ...]:
    """A conversation without what was put into its system prompt, which is tokenised by itself."""
    if asked is None:
        return prompt
    system = prompt[0]["content"] if prompt[0]["role"] == "system" else ""
    if system == asked:
        return prompt[1:]
    if not system.endswith(f"\n\n{asked}"):
        raise ValueError("its 'asked' is not what its system prompt ends with")
    return ({**prompt[0], "content": system.removesuffix(f"\n\n{asked}")}, *prompt[1:])
