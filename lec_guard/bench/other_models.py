"""Models that guardrails commonly use, in their real sizes and with random weights: good for time alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A model to compare with, as a classifier of texts.

    Attributes:
        name: What it is called.
        kind: Its architecture, as Hugging Face names it.
        layers: How many layers the whole model has.
        vocabulary: How many tokens it knows.
        config: The rest of its config.
        most_rounds: More rounds take too long; None for no such limit.
    """

    name: str
    kind: str
    layers: int
    vocabulary: int
    config: Mapping[str, Any]
    most_rounds: int | None = None

    def build(self, layers: int) -> torch.nn.Module:
        """Make the model, whole or cut; no weights are loaded.

        Args:
            layers: How many layers it shall have.

        Returns:
            The model in float32, in evaluation mode.
        """
        from transformers import AutoConfig, AutoModelForSequenceClassification

        config = AutoConfig.for_model(
            self.kind, **self.config, num_hidden_layers=layers, vocab_size=self.vocabulary, pad_token_id=0
        )
        loader: Any = AutoModelForSequenceClassification
        model: torch.nn.Module = loader.from_config(config)
        return model.eval()


_DEBERTA_V3 = {
    "type_vocab_size": 0,
    "relative_attention": True,
    "max_relative_positions": -1,
    "max_position_embeddings": 512,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
}

DEBERTA_BASE = OtherModel(
    "DeBERTa-v3-base",
    "deberta-v2",
    12,
    128_100,
    {**_DEBERTA_V3, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
)
DEBERTA_XSMALL = OtherModel(
    "DeBERTa-v3-xsmall",
    "deberta-v2",
    12,
    128_100,
    {**_DEBERTA_V3, "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
)
QWEN2_HALF_B = OtherModel(
    "Qwen2-0.5B",
    "qwen2",
    24,
    151_936,
    {
        "hidden_size": 896,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "max_position_embeddings": 32_768,
    },
    most_rounds=5,
)
