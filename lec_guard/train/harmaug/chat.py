"""A LangChain chat model as one that writes: with its answer begun for it, where the provider takes that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lec_guard.errors import UnsupportedValueError
from lec_guard.train.harmaug.config import Prefill
from lec_guard.train.harmaug.models import Ending, Prompt, Said, share_of, without_prefix

CONTINUES = frozenset({"anthropic-chat", "chat-ollama", "mistralai-chat", "amazon_bedrock_converse_chat"})
"""What LangChain calls the providers that go on with an answer where the last message is one."""

LOGPROBS = frozenset({"openai-chat", "azure-openai-chat"})
"""Those that tell how likely the words were, if asked to."""

_TOO_LONG = {"length", "max_tokens"}
_FILTERED = {"content_filter", "content_filtered", "refusal", "safety", "prohibited_content", "blocklist"}
_FILTER_CODES = {"content_filter", "content_policy_violation"}
_BAD_REQUEST = 400


class ChatText:
    """Writes with a chat model.

    Where a provider refuses a request with an answer that was begun, or with a wish for probabilities, the model is
    asked without, from then on.

    Args:
        model: A LangChain chat model, or what has its `ainvoke`.
        prefill: Whether answers are begun for it.
    """

    def __init__(self, model: Any, *, prefill: Prefill) -> None:
        self._model = model
        self._kind = str(getattr(model, "_llm_type", ""))
        self._fixed = prefill == "always"
        # These two only ever go from yes to no, and are the provider's, not a call's.
        self._begins = self._fixed or (prefill == "auto" and self._kind in CONTINUES)
        self._tells = self._kind in LOGPROBS

    async def say(self, prompt: Prompt) -> Said:
        """See `TextModel`."""
        while True:
            begun = bool(prompt.prefix) and self._begins
            asked = prompt.words is not None and self._tells
            try:
                reply = await self._model.ainvoke(
                    _messages(prompt, begun=begun), **({"logprobs": True, "top_logprobs": 20} if asked else {})
                )
            except Exception as error:  # every provider has errors of its own
                if _filtered(error):
                    return Said(text="", prefixed=False, ending="refused", tokens_in=0, tokens_out=0)
                if status(error) != _BAD_REQUEST or not (asked or (begun and not self._fixed)):
                    raise
                if asked:
                    self._tells = False
                else:
                    self._begins = False
            else:
                return _said(reply, prompt, begun=begun)


def named_chat_model(name: str, *, temperature: float | None, max_tokens: int) -> Any:
    """The chat model of a provider.

    Args:
        name: `provider:name`.
        temperature: How freely it writes; None leaves it to the provider.
        max_tokens: Tokens of an answer, at most.

    Returns:
        The chat model.

    Raises:
        UnsupportedValueError: If there is no such model, or a package is missing; says which.
    """
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError as error:
        raise UnsupportedValueError(
            f"{name} needs {error.name}; run: pip install 'lec-guard[augment]', or take hf:FOLDER"
        ) from None
    given: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    try:
        return init_chat_model(name, max_tokens=max_tokens, **given)
    except ImportError as error:
        raise UnsupportedValueError(f"{name}: {error}") from None
    except Exception as error:  # noqa: BLE001 - a key that is missing, and whatever else a provider's class refuses
        raise UnsupportedValueError(f"{name} can't be opened: {type(error).__name__}: {error}") from None


def status(error: BaseException) -> int | None:
    """The HTTP status in a provider's error.

    Args:
        error: The error.

    Returns:
        The status; None where it has none.
    """
    for holder in (error, getattr(error, "response", None)):
        found = getattr(holder, "status_code", None)
        if isinstance(found, int):
            return found
    return None


def _messages(prompt: Prompt, *, begun: bool) -> list[dict[str, Any]]:
    user = prompt.user
    if prompt.prefix and not begun:
        user = f'{user} Begin your answer with "{prompt.prefix}"'
    messages: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}, {"role": "user", "content": user}]
    if begun:
        # Mistral goes on with a message only where it says that it is a prefix; others do not read that.
        messages.append({"role": "assistant", "content": prompt.prefix, "additional_kwargs": {"prefix": True}})
    return messages


def _said(reply: Any, prompt: Prompt, *, begun: bool) -> Said:
    text = reply if isinstance(reply, str) else str(getattr(reply, "text", ""))
    metadata: Mapping[str, Any] = getattr(reply, "response_metadata", None) or {}
    usage: Mapping[str, Any] = getattr(reply, "usage_metadata", None) or {}
    rest, found = without_prefix(text, prompt.prefix)
    return Said(
        text=rest,
        prefixed=found or begun or not prompt.prefix,
        ending=_ending(metadata),
        share=None if prompt.words is None else _share(metadata, prompt.words),
        tokens_in=int(usage.get("input_tokens") or tokens_of(prompt.system + prompt.user)),
        tokens_out=int(usage.get("output_tokens") or tokens_of(text)),
    )


def tokens_of(text: str) -> int:
    """About how many tokens a text has.

    Args:
        text: The text.

    Returns:
        One for four characters, as most tokenizers have it in English.
    """
    return len(text) // 4 + 1


def _ending(metadata: Mapping[str, Any]) -> Ending:
    for key in ("finish_reason", "stop_reason", "stopReason", "done_reason"):
        reason = str(metadata.get(key) or "").casefold()
        if reason in _TOO_LONG:
            return "length"
        if reason in _FILTERED:
            return "refused"
    return "stop"


def _share(metadata: Mapping[str, Any], words: tuple[str, str]) -> float | None:
    try:
        top = metadata["logprobs"]["content"][0]["top_logprobs"]
        first = [(str(one["token"]), math.exp(float(one["logprob"]))) for one in top]
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return None
    merged: dict[str, float] = {}
    for token, probability in first:
        merged[token] = merged.get(token, 0.0) + probability
    return share_of(merged, words)


def _filtered(error: BaseException) -> bool:
    """Whether the provider's filter ended a call: it is an answer, and would be the same again."""
    return getattr(error, "code", None) in _FILTER_CODES
