"""The turn of a conversation that a decoder reads a text in: its chat template without the messages.

A text that is read in its turn has the states that it has while the same model answers: heads that are fitted so can
read it in the pass that goes on to write.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lec_guard.errors import BundleError

Role = Literal["user", "assistant"]
"""Whose turn a text is."""

_CONTEXT, _TEXT = "lecguardcontext", "lecguardtext"
"""Placeholders that no template changes or holds."""


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template without its messages; special tokens in it are what they stand for.

    Attributes:
        before: What stands before the context.
        between: What stands between context and text.
        after: What stands after the text: of a user's, the end of the turn and the start of the answer.
    """

    before: str
    between: str
    after: str

    @classmethod
    def from_chat_template(cls, folder: Path, role: Role = "user") -> Template:
        """Make one from a model's chat template; this is done once, when a bundle is made.

        The context of a user's text is the system message. Where the template has no such role, both are one message
        of the user, with an empty line between them. The context of an answer is the user's message.

        Args:
            folder: A folder with a Hugging Face tokenizer that has a chat template.
            role: Whose turn the text is.

        Returns:
            The template.

        Raises:
            BundleError: If there is no template, or it does not put the text once after the context and apart from it.
        """
        tokenizer = _tokenizer(folder)
        if role == "assistant":
            rendered = _render(tokenizer, folder, [{"role": "user", "content": _CONTEXT}]) + _TEXT
        else:
            user = {"role": "user", "content": _TEXT}
            try:
                rendered = _render(tokenizer, folder, [{"role": "system", "content": _CONTEXT}, user])
            except BundleError:
                rendered = ""
            # Some templates refuse a system message, others leave it out.
            if _CONTEXT not in rendered:
                rendered = _render(tokenizer, folder, [user | {"content": f"{_CONTEXT}\n\n{_TEXT}"}])
        before, context, rest = rendered.partition(_CONTEXT)
        between, text, after = rest.partition(_TEXT)
        parts = (before, between, after)
        if not (context and between and text) or any(held in part for held in (context, text) for part in parts):
            raise BundleError(
                f"{folder}: the chat template does not put the text once after the context and apart from it, so its "
                f"parts must be given by hand; it makes {rendered!r}"
            )
        return cls(*parts)


@dataclass(frozen=True, slots=True)
class Turn:
    """What stands around a text without a context; special tokens in it are what they stand for.

    Attributes:
        role: Whose turn it is.
        before: What stands before the text: of an answer, an empty message of the user.
        after: What stands after it.
    """

    role: Role
    before: str
    after: str

    @classmethod
    def from_chat_template(cls, folder: Path, role: Role) -> Turn:
        """Make one from a model's chat template.

        Args:
            folder: A folder with a Hugging Face tokenizer that has a chat template.
            role: Whose turn the text is.

        Returns:
            The turn.

        Raises:
            BundleError: If there is no template, or it does not put the text there once.
        """
        if role == "assistant":
            template = Template.from_chat_template(folder, role)
            return cls(role, template.before + template.between, template.after)
        rendered = _render(_tokenizer(folder), folder, [{"role": "user", "content": _TEXT}])
        before, text, after = rendered.partition(_TEXT)
        if not text or _TEXT in after:
            raise BundleError(f"{folder}: the chat template does not put a user's text once; it makes {rendered!r}")
        return cls(role, before, after)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged file makes it raise almost anything
        raise BundleError(f"{folder}: Hugging Face transformers can't load this tokenizer: {error}") from error


def _render(tokenizer: Any, folder: Path, messages: list[dict[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates raise what they like, for example where they know no system
        raise BundleError(f"{folder}: no chat template that takes a context and a text: {error}") from error
