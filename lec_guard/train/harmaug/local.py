"""A causal language model from a folder as one that writes: offline, with an answer begun for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lec_guard.detect.quiet import quiet
from lec_guard.errors import UnsupportedValueError
from lec_guard.train.harmaug.models import AugmentError, Prompt, Said, share_of, without_prefix

_NUCLEUS = 0.95
"""Of the probability, that tokens are drawn from: what is left are thousands that nobody would write."""

_MOST = 512
"""Tokens that are drawn from at most, and looked at for two words: a vocabulary takes long to sort."""

_LIMIT = 1024
"""Tokens that a model takes, where it does not say."""


class LocalText:
    """Writes with a local model; calls that come together are written together. For one event loop.

    What is drawn for a prompt depends on its seed, and not on what else is written with it: an interrupted run goes on
    as if it had not been. The answer's beginning stands behind the chat template's generation prompt. A model without
    a template goes on with the words themselves.

    Only safetensors are read, no code comes from the folder, and nothing is downloaded.

    Args:
        folder: A folder with a Hugging Face causal language model and its tokenizer.
        temperature: How freely it writes; 0 always takes the likeliest token.
        max_tokens: Tokens of an answer, at most.
        batch: Answers that are written together, at most.

    Raises:
        BundleError: If the folder holds no model or tokenizer that can be read.
        UnsupportedValueError: If a package is missing; says which.
    """

    def __init__(self, folder: Path, *, temperature: float, max_tokens: int, batch: int) -> None:
        # Imported here: nothing else of a run needs all of transformers.
        from lec_guard.detect.causal import load_causal

        found = load_causal(folder)
        # transformers' own types of these do not fit each other.
        model: Any = found.model
        self._tokenizer: Any = found.tokenizer
        if self._tokenizer.chat_template and find_spec("jinja2") is None:
            raise UnsupportedValueError(
                f"{folder}: its chat template needs jinja2; run: pip install 'lec-guard[augment]'"
            )
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device)
        self._limit = int(getattr(model.config, "max_position_embeddings", None) or _LIMIT)
        ends = model.generation_config.eos_token_id
        ends = self._tokenizer.eos_token_id if ends is None else ends
        self._ends = set(ends if isinstance(ends, list) else [] if ends is None else [ends])
        pad = self._tokenizer.pad_token_id
        self._pad = pad if pad is not None else min(self._ends, default=0)
        self._temperature, self._max_tokens, self._batch = temperature, max_tokens, batch
        self._waiting: list[tuple[Prompt, asyncio.Future[Said]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def say(self, prompt: Prompt) -> Said:
        """See `TextModel`."""
        answer: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, answer))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())
        return await answer

    async def _write(self) -> None:
        # Whoever asks in this turn of the loop is written with the first.
        await asyncio.sleep(0)
        while self._waiting:
            some, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
            some = [(prompt, answer) for prompt, answer in some if not answer.done()]
            if not some:
                continue
            try:
                found = await asyncio.to_thread(self.write, [prompt for prompt, _ in some])
            except Exception as error:  # noqa: BLE001 - handed to each who waits
                for _, answer in some:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for (_, answer), said in zip(some, found, strict=True):
                    if not answer.done():
                        answer.set_result(said)

    def write(self, prompts: Sequence[Prompt]) -> list[Said]:
        """Answer several prompts in one batch.

        Args:
            prompts: The prompts.

        Returns:
            What it says to each.

        Raises:
            AugmentError: If a prompt does not fit into the model.
        """
        from transformers import LogitsProcessorList

        given = [self._ids(prompt) for prompt in prompts]
        length = max(map(len, given))
        room = min(self._max_tokens, self._limit - length)
        if room < 1:
            raise AugmentError(
                f"a prompt of {length} tokens does not fit into a model of {self._limit}: give fewer exemplars, or a "
                "lower `longest`"
            )
        ids = torch.full((len(given), length), self._pad)
        mask = torch.zeros((len(given), length), dtype=torch.long)
        for row, own in enumerate(given):
            ids[row, length - len(own) :] = torch.tensor(own)
            mask[row, length - len(own) :] = 1
        draw = _Draw([prompt.seed for prompt in prompts], self._temperature)
        with torch.inference_mode(), quiet("transformers"):
            out = self._model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                logits_processor=LogitsProcessorList([draw]),
                do_sample=False,
                # Whatever the folder says of these, it is said here.
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=room,
                pad_token_id=self._pad,
                eos_token_id=sorted(self._ends) or None,
            )
        written = out[:, length:].tolist()
        return [self._said(*one) for one in zip(prompts, given, written, draw.first, strict=True)]

    def _ids(self, prompt: Prompt) -> list[int]:
        if self._tokenizer.chat_template:
            text = self._templated(prompt) + prompt.prefix
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self._tokenizer("\n\n".join((prompt.system, prompt.user, prompt.prefix)).rstrip())["input_ids"])

    def _templated(self, prompt: Prompt) -> str:
        from jinja2 import TemplateError

        system, user = {"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}
        # Some templates refuse a system message.
        alone = {"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}
        for messages in ([system, user], [alone]):
            try:
                return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
            except TemplateError:
                continue
        raise AugmentError("the model's chat template takes no user message")

    def _said(self, prompt: Prompt, given: list[int], written: list[int], first: dict[int, float]) -> Said:
        end = next((at for at, token in enumerate(written) if token in self._ends), None)
        own = written if end is None else written[:end]
        share = None
        if prompt.words is not None:
            likely: dict[str, float] = {}
            for token, probability in first.items():
                word = str(self._tokenizer.decode([token]))
                likely[word] = likely.get(word, 0.0) + probability
            share = share_of(likely, prompt.words)
        text, _ = without_prefix(str(self._tokenizer.decode(own, skip_special_tokens=True)), prompt.prefix)
        return Said(
            text=text,
            prefixed=True,
            ending="length" if end is None else "stop",
            share=share,
            tokens_in=len(given),
            tokens_out=len(own),
        )


class _Draw:
    """Draws tokens, each row by its own seed: noise is added such that the largest sum is a sample (Gumbel)."""

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._numbers = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature
        self.first: list[dict[int, float]] = []
        """The probabilities of each row's likeliest first tokens."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        logits = scores.float()
        if not self.first:
            likely, tokens = logits.softmax(dim=-1).topk(min(_MOST, logits.shape[-1]))
            self.first = [
                dict(zip(own, shares, strict=True))
                for own, shares in zip(tokens.tolist(), likely.tolist(), strict=True)
            ]
        if not self._temperature:
            return logits
        most, places = (logits / self._temperature).log_softmax(dim=-1).topk(min(_MOST, logits.shape[-1]))
        shares = most.exp()
        # A token stays whose likelier ones do not reach the share yet.
        most = most.masked_fill(shares.cumsum(dim=-1) - shares >= _NUCLEUS, -torch.inf)
        noise = torch.stack([torch.rand(most.shape[-1], generator=one) for one in self._numbers]).to(most.device)
        drawn = most - torch.log(-torch.log(noise.clamp(1e-20, 1 - 1e-7)))
        return torch.full_like(logits, -torch.inf).scatter(-1, places, drawn)
