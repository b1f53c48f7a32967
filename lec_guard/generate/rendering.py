"""Conversations to the tokens of a prompt, so that what somebody typed stays text and can't become template.

The template is filled with placeholders, and cut up at them. Its own parts are tokenised with special tokens, contents
by themselves and without: a content that says `<|im_start|>system` is so many tokens of text. Contents have the tokens
that a detector's windows have of the same text (`lec_guard.detect.windows`).
"""

from __future__ import annotations

import re
import secrets
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lec_guard.detect.normalise import readable
from lec_guard.detect.windows import Windower, WindowSpec
from lec_guard.errors import UnsupportedValueError

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Others are refused: templates make special tokens of roles."""

_MARKUP = re.compile(r"[^\w\s].*\w.*[^\w\s]", re.DOTALL)
"""What an added token looks like that is markup and no word."""

_CALLS = ("tool_call", "tool_use", "function_call", "server_tool_call", "input_json_delta")
"""Blocks of contents that say once more what `tool_calls` of the message says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSpan:
    """Where the content of a message stands in a prompt.

    Attributes:
        message: Which message, counted from 0.
        start: Its first token.
        stop: One past its last.
        text: The content.
    """

    message: int
    start: int
    stop: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A prompt.

    Attributes:
        ids: Its tokens.
        spans: The contents in it, in order; of empty ones there is none.
    """

    ids: list[int]
    spans: tuple[MessageSpan, ...]


def conversation_of(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages of LangChain as chat templates take them, one for one.

    Names of authors are left out, which templates have no place for, and so are tool calls that were none.

    Args:
        messages: System, human, AI and tool messages, chunks of them too.

    Returns:
        Dicts with `role`, `content`, and what belongs to tool calls.

    Raises:
        UnsupportedValueError: If a message has another kind, or holds something that is no text.
    """
    return [_as_dict(at, message) for at, message in enumerate(messages)]


def _as_dict(at: int, message: BaseMessage) -> dict[str, Any]:
    called = {call["id"] for call in message.tool_calls} if isinstance(message, AIMessage) else set()
    content = _text(at, message.type, message.content, called)
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": content}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": content}
    if isinstance(message, ToolMessage):
        found = {"role": "tool", "content": content, "tool_call_id": message.tool_call_id}
        return found | ({"name": message.name} if message.name else {})
    if isinstance(message, AIMessage):
        calls = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
            for call in message.tool_calls
        ]
        return {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": content}
    raise UnsupportedValueError(f"message {at} is a {type(message).__name__}, which no chat template has a place for")


def _text(at: int, who: str, content: Any, called: set[str | None] | frozenset[str | None] = frozenset()) -> str:
    """Text blocks as one text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    found = []
    for block in content if isinstance(content, list | tuple) else [content]:
        if isinstance(block, str):
            found.append(block)
        elif isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str):
            found.append(block["text"])
        elif not (isinstance(block, Mapping) and block.get("type") in _CALLS and block.get("id") in called):
            kind = repr(block.get("type")) if isinstance(block, Mapping) else type(block).__name__
            raise UnsupportedValueError(
                f"message {at} ({who}) holds a block of type {kind}; this model reads text alone"
            )
    return "".join(found)


def longest_of(model: PreTrainedModel) -> int | None:
    """How much a model reads, prompt and answer together.

    Args:
        model: A causal model.

    Returns:
        Tokens; None where its config names no limit.
    """
    found = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def render(
    tokenizer: PreTrainedTokenizerBase,
    conversation: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    asked: str | None = None,
    longest: int | None = None,
) -> Rendered:
    """Write a conversation down as the tokenizer's chat template has it, up to where the answer begins.

    Args:
        tokenizer: A fast one, of the model.
        conversation: Messages with `role` and `content`, perhaps `tool_calls` and `tool_call_id`, as
            `conversation_of` makes them. A content may also be a list of text blocks.
        tools: What can be called, as OpenAI schemas. Special tokens in them and in calls stay text too.
        asked: What the system prompt asks for besides: after the system message, or as one where there is none. No
            span is of it.
        longest: Tokens that the model reads, the answer's first among them.

    Returns:
        The prompt. A span's message is counted in the conversation as it was given.

    Raises:
        ValueError: If there is no message, or the prompt is longer than the model reads.
        UnsupportedValueError: If the tokenizer has no chat template or is no fast one, the template can't write the
            conversation or its tools, or a content is no text or holds a token that can't be told from the template.
    """
    messages = list(conversation)
    if not messages:
        raise ValueError("there is no conversation, or one without a message")
    check_template(tokenizer)
    tokens = _tokens(tokenizer)
    try:
        template = tokenizer.get_chat_template(tools=[] if tools else None)
    except ValueError as error:
        raise UnsupportedValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template: {error}"
        ) from error
    slots = _Slots(tokens.controls(template))
    given = [_with_slots(at, message, slots) for at, message in enumerate(messages)]
    if asked is not None:
        given = _asking(given, slots.content(-1, asked if given[0]["role"] != "system" else f"\n\n{asked}"))
    schemas = [slots.scrubbed(tool) for tool in tools or ()]
    written = _written(tokenizer, given, schemas)
    if schemas and _written(tokenizer, given, []) == written:
        raise UnsupportedValueError("the chat template leaves tools out; take a model that was trained to call them")
    for message in given:
        for call in message.get("tool_calls") or ():
            if str(call["function"]["name"]) not in written:
                raise UnsupportedValueError(
                    "the chat template leaves out what was called; take a model that calls tools"
                )
    found = slots.filled(written, tokens)
    if not found.ids:
        raise ValueError("the chat template makes an empty prompt of this conversation")
    if longest is not None and len(found.ids) >= longest:
        raise ValueError(
            f"the prompt has {len(found.ids)} tokens, and the model reads {longest}, its answer among them"
        )
    return found


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that conversations can be written down at all.

    Args:
        tokenizer: Of the model.

    Raises:
        UnsupportedValueError: If the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise UnsupportedValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set tokenizer.chat_template to the one "
            "that its model was trained with"
        )


def _with_slots(at: int, message: Mapping[str, Any], slots: _Slots) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise UnsupportedValueError(f"message {at} has the role {role!r}; it is one of {', '.join(ROLES)}")
    rest = {key: slots.scrubbed(value) for key, value in message.items() if key not in ("role", "content")}
    return {"role": role, "content": slots.content(at, _text(at, str(role), message.get("content"))), **rest}


def _asking(given: list[dict[str, Any]], asked: str) -> list[dict[str, Any]]:
    if given[0]["role"] == "system":
        return [{**given[0], "content": given[0]["content"] + asked}, *given[1:]]
    return [{"role": "system", "content": asked}, *given]


def _written(tokenizer: PreTrainedTokenizerBase, given: list[dict[str, Any]], tools: list[Any]) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(given, tools=tools or None, add_generation_prompt=True, tokenize=False)
        )
    except Exception as error:  # templates raise what they like, for example where they know no system
        raise UnsupportedValueError(f"the chat template can't write this conversation: {error}") from error


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The two ways to read with a tokenizer: as text, and as template. Copies, which nobody else can change."""

    size: int
    text: Windower
    template: Tokenizer
    special: frozenset[int]
    added: Mapping[str, int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, size: int) -> Self:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise UnsupportedValueError(
                f"{type(tokenizer).__name__} is no fast tokenizer, so that text can't be told from template; load a "
                "tokenizer.json"
            )
        content = backend.to_str()
        template = Tokenizer.from_str(content)
        template.no_truncation()
        template.no_padding()
        entries = backend.get_added_tokens_decoder()
        special = {token for token, entry in entries.items() if entry.special} | set(tokenizer.all_special_ids)
        # What the tokenizer does not know is that one, unless it means the end of a text as well.
        if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
            special.discard(tokenizer.unk_token_id)
        # No window is cut, and any spec does.
        text = Windower.from_json(content.encode(), WindowSpec(size=64, stride=1, least=1))
        return cls(size, text, template, frozenset(special), {entry.content: at for at, entry in entries.items()})

    def controls(self, template: str) -> Mapping[str, int]:
        """What no text may become: special tokens, and added ones that are markup of the template."""
        return {
            text: token
            for text, token in self.added.items()
            if token in self.special or (_MARKUP.fullmatch(text) and text in template)
        }

    def text_ids(self, text: str, controls: frozenset[int]) -> list[int]:
        ids = self.text.ids(text)
        if controls.isdisjoint(ids):
            return ids
        # Markup that is no special token in this tokenizer's eyes, or one that its model knows as a word: cut in two,
        # it is text.
        clean = readable(text)
        run, cuts = self.text.tokens(clean, 0), [0]
        for token, start, stop in zip(run.ids, run.starts, run.stops, strict=True):
            if token in controls:
                if stop - start < 2:
                    raise UnsupportedValueError(
                        f"{clean[start:stop]!r} in a text can't be told from a token of the chat template"
                    )
                cuts.append(start + 1)
        pieces = [clean[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(clean)], strict=True)]
        return [token for piece in pieces for token in self.text_ids(piece, controls)]

    def template_ids(self, text: str) -> list[int]:
        # The template has written all special tokens already.
        return list(self.template.encode(text, add_special_tokens=False).ids)


_KNOWN: weakref.WeakKeyDictionary[PreTrainedTokenizerBase, _Tokens] = weakref.WeakKeyDictionary()
_KNOWN_LOCK = threading.Lock()
"""A copy takes a second where a vocabulary is large."""


def _tokens(tokenizer: PreTrainedTokenizerBase) -> _Tokens:
    size = len(tokenizer)
    with _KNOWN_LOCK:
        known = _KNOWN.get(tokenizer)
        if known is None or known.size != size:
            known = _KNOWN[tokenizer] = _Tokens.of(tokenizer, size)
        return known


@dataclass(frozen=True, slots=True)
class _Slot:
    """What a placeholder stands for."""

    message: int | None
    text: str


class _Slots:
    """Placeholders in a template, and what they stand for."""

    def __init__(self, controls: Mapping[str, int]) -> None:
        self._controls = frozenset(controls.values())
        # The longest first: one may be the beginning of another.
        texts = sorted(controls, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, texts))) if texts else None
        # Nobody who wrote a message knows it.
        self._name = f"lecguard{secrets.token_hex(12)}x"
        self._slots: list[_Slot] = []

    def content(self, message: int, text: str) -> str:
        """A placeholder for a content, which has to be in the prompt once. What is empty stays empty."""
        return self._placed(_Slot(message, text)) if text else ""

    def scrubbed(self, value: Any) -> Any:
        """A value of JSON with placeholders for the special tokens in it, which may be in the prompt or not."""
        if isinstance(value, str):
            return self._marks.sub(self._mark, value) if self._marks else value
        if isinstance(value, Mapping):
            return {self.scrubbed(key): self.scrubbed(own) for key, own in value.items()}
        if isinstance(value, list | tuple):
            return [self.scrubbed(own) for own in value]
        return value

    def _mark(self, found: re.Match[str]) -> str:
        return self._placed(_Slot(None, found[0]))

    def _placed(self, slot: _Slot) -> str:
        self._slots.append(slot)
        return f"{self._name}{len(self._slots) - 1}x"

    def filled(self, written: str, tokens: _Tokens) -> Rendered:
        parts = re.split(f"{self._name}([0-9]+)x", written)
        numbers = [int(number) for number in parts[1::2]]
        for at, slot in enumerate(self._slots):
            if slot.message is not None and numbers.count(at) != 1:
                times = "leaves out" if at not in numbers else "writes more than once"
                what = "what is asked for" if slot.message < 0 else f"the content of message {slot.message}"
                raise UnsupportedValueError(f"the chat template {times} {what}; this conversation does not go with it")
        ids, spans = tokens.template_ids(parts[0]), []
        for number, part in zip(numbers, parts[2::2], strict=True):
            slot, start = self._slots[number], len(ids)
            ids += tokens.text_ids(slot.text, self._controls)
            if slot.message is not None and slot.message >= 0:
                spans.append(MessageSpan(message=slot.message, start=start, stop=len(ids), text=slot.text))
            ids += tokens.template_ids(part)
        return Rendered(ids=ids, spans=tuple(spans))
