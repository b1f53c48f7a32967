"""Classifier-free guidance for any causal model of transformers, exact in every way of decoding.

Both prompts go through the model as one left-padded batch, each row with its own positions and its own cache, and
`generate` is transformers' own: what it does to rows (samples, beams that change places) is done to both halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, StaticCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from lec_guard.errors import UnsupportedValueError
from lec_guard.generate.mixing import Guidance
from lec_guard.generate.rendering import longest_of
from lec_guard.generate.states import uncaught

_ELSEWHERE = ("assistant_model", "prompt_lookup_num_tokens", "guidance_scale", "negative_prompt_ids", "inputs_embeds")
"""Ways of `generate` that go past two prompts, or would guide a second time."""


# Below, types know one base class of two, and `generate` has arguments that transformers' own has not.


class _Stacked:
    """A cache whose rows are those of the positive prompts, then those of the negative ones."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Both halves change places alike."""
        super().reorder_cache(torch.cat([beam_idx, beam_idx + len(beam_idx)]))  # type: ignore[misc]


class _StackedDynamic(_Stacked, DynamicCache):
    pass


class _StackedStatic(_Stacked, StaticCache):
    pass


class _Beside:
    """The cache of the positive prompts, with that of the negative ones beside it."""

    negative: Cache

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Both change places alike."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.negative.reorder_cache(cast("torch.LongTensor", beam_idx))


class _DynamicBeside(_Beside, DynamicCache):
    pass


class _StaticBeside(_Beside, StaticCache):
    pass


class GuidedCausalLM(torch.nn.Module, GenerationMixin):
    """A causal model whose `generate` is guided by a second, negative prompt.

    Args:
        model: The model, which is used as it is and not copied.
        guidance: How far.

    Raises:
        UnsupportedValueError: If the model has an encoder.
    """

    main_input_name = "input_ids"

    def __init__(self, model: PreTrainedModel, guidance: Guidance) -> None:
        if getattr(model.config, "is_encoder_decoder", False):
            raise UnsupportedValueError(
                f"{type(model).__name__} has an encoder; guidance is for models that only write"
            )
        super().__init__()
        self.model = model
        self.guidance = guidance
        self.config = model.config
        self.generation_config = model.generation_config

    def __getattr__(self, name: str) -> Any:
        """Whatever else `generate` wants to know is as the model has it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        negative_input_ids: Tensor,
        negative_attention_mask: Tensor | None = None,
        cache: Literal["dynamic", "static", "none"] = "dynamic",
        **settings: Any,
    ) -> Any:
        """Generate as transformers does, with all that its `generate` takes but what guides or guesses ahead itself.

        Args:
            input_ids: The positive prompts, (rows, tokens), padded on the left.
            attention_mask: Of the same shape; None where nothing is padded.
            negative_input_ids: A negative prompt for each of them, padded on the left to any length.
            negative_attention_mask: Of the same shape; None where nothing is padded.
            cache: What keeps keys and values.
            settings: For transformers: `max_new_tokens`, `do_sample`, `num_beams`, `streamer` and so on.

        Returns:
            What transformers returns: the prompts with what was written after them.

        Raises:
            ValueError: If the prompts do not fit, are empty, are padded on the right, or leave no room for an answer.
            UnsupportedValueError: If a setting goes past two prompts.
        """
        for name in _ELSEWHERE:
            if settings.get(name) is not None:
                raise UnsupportedValueError(f"{name} does not go with guidance; leave it out")
        positive = _prompt(input_ids, attention_mask, "input_ids")
        if self.guidance.coefficient == 1.0:
            ways: dict[str, dict[str, Any]] = {
                "dynamic": {},
                "static": {"cache_implementation": "static"},
                "none": {"use_cache": False},
            }
            plain: Any = self.model
            return plain.generate(input_ids=positive[0], attention_mask=positive[1], **ways[cache], **settings)
        negative = _prompt(negative_input_ids, negative_attention_mask, "negative_input_ids")
        if len(positive[0]) != len(negative[0]):
            raise ValueError(f"{len(negative[0])} negative prompts for {len(positive[0])} prompts")
        width, pad = max(positive[0].shape[1], negative[0].shape[1]), _pad(self.generation_config, settings)
        longest, room = self._longest(width, settings), longest_of(self.model)
        if room is not None and longest > room:
            raise ValueError(f"prompts of {width} tokens and their answers make {longest}, and the model reads {room}")
        ids, mask = _widened(positive, width, pad)
        others, other_mask = _widened(negative, width, pad)
        if cache == "none":
            settings["use_cache"] = False
        else:
            settings["past_key_values"] = self._cache(cache, longest)
        added = width - positive[0].shape[1]
        found = super().generate(
            input_ids=ids,
            attention_mask=mask,
            negative_ids=others,
            negative_mask=other_mask,
            **_longer(settings, added),
        )
        return _cut(found, added)

    def _longest(self, width: int, settings: Mapping[str, Any]) -> int:
        """Tokens that a prompt and its answer may have."""
        limits = {name: settings[name] for name in ("max_length", "max_new_tokens") if name in settings}
        config, _ = self._prepare_generation_config(settings.get("generation_config"), **limits)
        if config.max_new_tokens is not None:
            return width + int(config.max_new_tokens)
        # transformers writes 20 tokens where nobody says how many.
        return int(config.max_length) if config.max_length is not None else width + 20

    def _cache(self, kind: Literal["dynamic", "static"], longest: int) -> Cache:
        text, beside = self.config.get_text_config(decoder=True), self.guidance.sequential
        sizes = {"max_cache_len": longest} if kind == "static" else {}
        stacked = {"dynamic": _StackedDynamic, "static": _StackedStatic}[kind]
        alone = {"dynamic": _DynamicBeside, "static": _StaticBeside}[kind]
        made: Any = (alone if beside else stacked)(config=text, **sizes)
        if beside:
            made.negative = {"dynamic": DynamicCache, "static": StaticCache}[kind](config=text, **sizes)
        return cast("Cache", made)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        negative_ids: Tensor | None = None,
        negative_mask: Tensor | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """What `forward` gets of what `generate` keeps."""
        return {
            "input_ids": input_ids if next_sequence_length is None else input_ids[:, -next_sequence_length:],
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "negative_ids": negative_ids,
            "negative_mask": negative_mask,
        }

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        negative_ids: Tensor,
        negative_mask: Tensor,
        past_key_values: Cache | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token.

        Args:
            input_ids: Tokens that the cache does not have, of the positive prompts with what was written.
            attention_mask: All of their columns; None where nothing is padded.
            negative_ids: The negative prompts, as wide as the positive ones.
            negative_mask: Their mask.
            past_key_values: What was read already.

        Returns:
            Scores of the next token, (rows, 1, vocabulary).
        """
        if attention_mask is None:  # transformers leaves out a mask that hides nothing
            seen = 0 if past_key_values is None else int(past_key_values.get_seq_length())
            attention_mask = input_ids.new_ones(len(input_ids), seen + input_ids.shape[1])
        prompt, seen = negative_ids.shape[1], attention_mask.shape[1] - input_ids.shape[1]
        # Both halves continue with the same tokens; only the prompts differ.
        other_ids = torch.cat([negative_ids[:, seen:], input_ids[:, max(0, prompt - seen) :]], dim=1)
        other_mask = torch.cat([negative_mask, attention_mask[:, prompt:]], dim=1)
        if self.guidance.sequential:
            beside = past_key_values.negative if isinstance(past_key_values, _Beside) else None
            first = self._logits(input_ids, attention_mask, past_key_values)
            with uncaught():
                second = self._logits(other_ids, other_mask, beside)
        else:
            both = self._logits(
                torch.cat([input_ids, other_ids]), torch.cat([attention_mask, other_mask]), past_key_values
            )
            first, second = both.chunk(2)
        logits = self.guidance.mixed(first, second)
        return CausalLMOutputWithPast(logits=cast("torch.FloatTensor", logits), past_key_values=past_key_values)

    def _logits(self, ids: Tensor, mask: Tensor, cache: Cache | None) -> Tensor:
        """Of the last column alone."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        found = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )
        return cast("Tensor", found.logits[:, -1:])


def _prompt(ids: Tensor, mask: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    if ids.ndim != 2 or not ids.numel():
        raise ValueError(f"{name} of shape {tuple(ids.shape)} has no prompt; it is (rows, tokens)")
    mask = torch.ones_like(ids) if mask is None else mask.to(ids.dtype)
    if mask.shape != ids.shape:
        raise ValueError(f"the mask of {name} is {tuple(mask.shape)}, and the tokens are {tuple(ids.shape)}")
    if not bool(mask[:, -1].all()) or bool((mask.diff(dim=1) < 0).any()):
        raise ValueError(f"{name} is padded on the right, or has an empty row; pad on the left")
    return ids, mask


def _widened(prompt: tuple[Tensor, Tensor], width: int, pad: int) -> tuple[Tensor, Tensor]:
    ids, mask = prompt
    more = width - ids.shape[1]
    return torch.nn.functional.pad(ids, (more, 0), value=pad), torch.nn.functional.pad(mask, (more, 0), value=0)


def _pad(config: Any, settings: Mapping[str, Any]) -> int:
    for value in (settings.get("pad_token_id"), config.pad_token_id, settings.get("eos_token_id"), config.eos_token_id):
        if value is not None:
            return int(value[0] if isinstance(value, list) else value)
    return 0


def _longer(settings: dict[str, Any], added: int) -> dict[str, Any]:
    """Limits that count the prompt count what was put before it as well."""
    for name in ("max_length", "min_length"):
        if settings.get(name) is not None:
            settings[name] += added
    return settings


def _cut(found: Any, added: int) -> Any:
    """What was written, without what was put before the prompts to make them as wide as the negative ones."""
    if not added:
        return found
    if isinstance(found, Tensor):
        return found[:, added:]
    found.sequences = found.sequences[:, added:]
    return found
