"""Tiny models with bundles that read their own layers, made by hand so that it is known what they say."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.guarded import write_head
from lec_guard.detect.extractor import Block
from lec_guard.detect.windows import WindowSpec
from tests.generate.tiny import model_of, tokenizer_of

PLAIN = ("mill", "river", "town", "bread", "horse", "letter", "winter", "garden")
BAD = ("poison", "secret", "steal", "hurt")
SYSTEM = "you are kind"
WORDS = (*PLAIN, *BAD, *SYSTEM.split(), "no")


def said(seed: int, words: tuple[str, ...] = PLAIN, count: int = 6) -> str:
    """Some words, drawn by a seed."""
    return " ".join(random.Random(seed).choices(words, k=count))


@dataclass(frozen=True)
class Inside:
    """A model on disk and in memory."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    def bad_words(self, tokens: tuple[int, ...] = (), sure: float = 6.0) -> np.ndarray:
        """Weights of the embeddings by which some tokens stand out; those of bad words, if none are given."""
        emb = self.model.get_input_embeddings().weight.detach().double().numpy()
        bad = set(tokens) or {self.tokenizer.convert_tokens_to_ids(word) for word in BAD}
        loud = 10 * sure if tokens else sure  # one of them alone is enough
        wanted = np.array([loud if token in bad else -sure for token in range(len(self.tokenizer))])
        wanted, emb = wanted[1:], emb[1 : len(wanted)]  # padding has no state
        known = np.linalg.lstsq(emb, wanted, rcond=None)[0]
        assert np.abs(emb @ known - wanted).max() < 1e-3
        return known.astype(np.float32)[:, None]

    def bundle(
        self,
        name: str,
        *,
        role: str = "user",
        head: str = "attack",
        blocks: tuple[tuple[int, str], ...] = ((0, "mean"),),
        weight: np.ndarray | None = None,
        tokens: tuple[int, ...] = (),
        window: WindowSpec | None = None,
    ) -> Path:
        """Write a bundle whose head reads these layers; by default it says whether there are bad words."""
        if weight is None:
            weight = self.bad_words(tokens) if blocks == ((0, "mean"),) else self.drawn(len(blocks))
        return write_head(
            self.folder / name,
            self.folder / "model",
            role,
            head,
            weight,
            blocks=[Block(*own) for own in blocks],
            window=window or WindowSpec(size=34, stride=16, least=4 if role == "assistant" else 32),
        )

    def drawn(self, blocks: int) -> np.ndarray:
        """Weights that say something of every state."""
        width = self.model.config.hidden_size * blocks
        return (np.random.default_rng(0).normal(size=(width, 1)) / width**0.5).astype(np.float32)


def inside(kind: str, folder: Path) -> Inside:
    """Make one, with its words as tokens."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(" ".join(WORDS))
    model = model_of(kind, len(tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return Inside(folder, model, tokenizer)
