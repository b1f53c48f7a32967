"""Tiny models with bundles that read their own layers, made by hand so that it is known what they say."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from lec_guard.detect.bundle import (
    BundleSpec,
    FeatureBlock,
    Learned,
    PathBase,
    PrefixPairs,
    ReadInTurn,
    Windows,
    hash_files,
    write_bundle,
)
from lec_guard.detect.extractor import Extractor
from lec_guard.detect.heads import HeadSpec, HeadStack
from lec_guard.detect.turns import Template, Turn
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
        own = tuple(FeatureBlock(layer=layer, pooling=pooling) for layer, pooling in blocks)
        window = window or WindowSpec(size=34, stride=16, least=4 if role == "assistant" else 32)
        model, turn = self.folder / "model", Turn.from_chat_template(self.folder / "model", role)
        template = Template.from_chat_template(model, role)
        spec = HeadSpec(name=head, kind="binary", labels=("harmful",))
        if weight is None:
            weight = self.bad_words(tokens) if blocks == ((0, "mean"),) else self.drawn(len(blocks))
        stack = HeadStack([spec], weight, np.zeros(1, np.float32))
        extractor = Extractor.load(model, blocks=[_block(one) for one in own], window=window, turn=turn)
        write_bundle(
            self.folder / name,
            BundleSpec(
                format=5,
                name=head,
                base=PathBase(kind="path", path=str(model)),
                files=hash_files(model),
                blocks=own,
                window=Windows(**asdict(window)),
                extractor_id=extractor.extractor_id,
                turn=ReadInTurn(**asdict(turn)),
                heads=(spec,),
                pairs=PrefixPairs(kind="prefix", **asdict(template), heads=(spec,)),
                heads_sha256="0" * 64,
            ),
            Learned(stack, stack),
        )
        return self.folder / name

    def drawn(self, blocks: int) -> np.ndarray:
        """Weights that say something of every state."""
        width = self.model.config.hidden_size * blocks
        return (np.random.default_rng(0).normal(size=(width, 1)) / width**0.5).astype(np.float32)


def _block(own: FeatureBlock):
    from lec_guard.detect.extractor import Block

    return Block(own.layer, own.pooling)


def inside(kind: str, folder: Path) -> Inside:
    """Make one, with its words as tokens."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of(" ".join(WORDS))
    model = model_of(kind, len(tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return Inside(folder, model, tokenizer)
