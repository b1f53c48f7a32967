"""BERT in plain torch, for encoders that need no more than that; the embedded detector's is one.

transformers runs them as well, but its modelling code imports torch's compiler, distributed tensors, SymPy and,
where it is installed, SciPy: more than all else of a cold start. Only what is certain is read here. A config that
says anything else, a tensor of another name, shape or dtype: all that is left to transformers, which has the last
word on what is wrong. The names of parts are those of the checkpoint (Devlin et al. 2019, arXiv 1810.04805).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional

_Size = Annotated[int, Field(gt=0, lt=2**31)]


class PlainConfig(BaseModel):
    """What `config.json` says of an encoder that is read here; the defaults are those of transformers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model_type: Literal["bert"]
    hidden_act: Literal["gelu"]
    hidden_size: _Size
    intermediate_size: _Size
    layer_norm_eps: Annotated[float, Field(gt=0)]
    max_position_embeddings: _Size
    num_attention_heads: _Size
    num_hidden_layers: _Size
    type_vocab_size: _Size
    vocab_size: _Size
    pad_token_id: Annotated[int, Field(ge=0)] | None = 0

    # What must not be otherwise.
    add_cross_attention: Literal[False] = False
    dtype: Literal["float32"] | None = None
    is_decoder: Literal[False] = False
    is_encoder_decoder: Literal[False] = False
    position_embedding_type: Literal["absolute"] | None = None
    torch_dtype: Literal["float32"] | None = None

    # What says nothing of a hidden state outside of training.
    name_or_path: object = Field(None, alias="_name_or_path")
    architectures: object = None
    attention_probs_dropout_prob: object = None
    bos_token_id: object = None
    chunk_size_feed_forward: object = None
    classifier_dropout: object = None
    eos_token_id: object = None
    gradient_checkpointing: object = None
    hidden_dropout_prob: object = None
    id2label: object = None
    initializer_range: object = None
    label2id: object = None
    tie_word_embeddings: object = None
    transformers_version: object = None
    use_cache: object = None


@dataclass(frozen=True, slots=True)
class States:
    """What `PlainEncoder` gives, named as in transformers.

    Attributes:
        last_hidden_state: After the last layer, `[batch, tokens, width]`.
        hidden_states: Before the first layer and after each, if they were asked for.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...] | None


class _Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Nothing: the weights come from a file, and torch imports its compiler to make none up."""


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Nothing, likewise."""


class PlainEncoder(nn.Module):
    """Embeddings and layers; there is nothing above the last one.

    Args:
        config: The sizes.
        layers: How many layers.
    """

    def __init__(self, config: PlainConfig, layers: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": _Embedding(config.vocab_size, width),
                "position_embeddings": _Embedding(config.max_position_embeddings, width),
                "token_type_embeddings": _Embedding(config.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, config.layer_norm_eps),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_Layer(config) for _ in range(layers))})

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        output_hidden_states: bool = False,
        return_dict: bool = True,  # noqa: ARG002 - the caller asks every model for one
    ) -> States:
        """Read a batch.

        Args:
            input_ids: Token ids, `[batch, tokens]`.
            attention_mask: 1 for a token, 0 for padding, `[batch, tokens]`.
            output_hidden_states: Whether to give the states between layers too.
            return_dict: No matter: there is one form of output.

        Returns:
            The states.
        """
        embed = self.embeddings
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        # All tokens belong to the first kind of text.
        state = embed["word_embeddings"](input_ids) + embed["token_type_embeddings"](torch.zeros_like(positions))
        state = embed["LayerNorm"](state + embed["position_embeddings"](positions))
        states = [state]
        seen = attention_mask.bool()[:, None, None, :]
        for layer in cast("nn.ModuleList", self.encoder["layer"]):
            state = layer(state, seen)
            states.append(state)
        return States(state, tuple(states) if output_hidden_states else None)


class _Layer(nn.Module):
    """Attention and a perceptron, each with a norm after its residual sum."""

    def __init__(self, config: PlainConfig) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        parts = nn.ModuleDict({name: _Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": parts, "output": _Sum(width, config)})
        self.intermediate = nn.ModuleDict({"dense": _Linear(width, inner)})
        self.output = _Sum(inner, config)
        self._heads = config.num_attention_heads

    def forward(self, state: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, width]`, and which tokens may be looked at -> the next state."""
        looked = functional.scaled_dot_product_attention(
            self._split("query", state), self._split("key", state), self._split("value", state), attn_mask=seen
        )
        state = self.attention["output"](looked.transpose(1, 2).flatten(2), state)
        whole: torch.Tensor = self.output(functional.gelu(self.intermediate["dense"](state)), state)
        return whole

    def _split(self, part: str, state: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, width]` -> `[batch, heads, tokens, width of a head]`."""
        out: torch.Tensor = cast("nn.ModuleDict", self.attention["self"])[part](state)
        return out.view(*out.shape[:2], self._heads, -1).transpose(1, 2)


class _Sum(nn.Module):
    """A projection back to the width of a state, added to it."""

    def __init__(self, inner: int, config: PlainConfig) -> None:
        super().__init__()
        self.dense = _Linear(inner, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, inner: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, inner]` and `[batch, tokens, width]` -> the latter."""
        out: torch.Tensor = self.LayerNorm(self.dense(inner) + state)
        return out


@dataclass(frozen=True, slots=True)
class Plain:
    """An encoder that was read here.

    Attributes:
        module: Its first layers, in evaluation mode; for `layers` 0 one layer, whose output is of no use.
        layers: How many layers to keep.
        config: What it was read by.
    """

    module: PlainEncoder
    layers: int
    config: PlainConfig


def load_plain(path: Path, layers: int | None) -> Plain | None:
    """Load the first layers of an encoder, if it is one that needs no transformers.

    Args:
        path: A folder with `config.json` and safetensors.
        layers: How many layers to keep; None keeps all.

    Returns:
        The encoder in float32 on the CPU; None where transformers has to read it, or to say what is wrong with it.
    """
    try:
        config = PlainConfig.model_validate_json((path / "config.json").read_bytes())
        keep = config.num_hidden_layers if layers is None else layers
        if (
            not 0 <= keep <= config.num_hidden_layers
            or config.hidden_size % config.num_attention_heads
            or (config.pad_token_id or 0) >= config.vocab_size
        ):
            return None
        with torch.device("meta"):
            module = PlainEncoder(config, max(keep, 1))
        tensors = _tensors(path / "model.safetensors", list(module.state_dict()))
        if tensors is None:
            return None
        module.load_state_dict(tensors, assign=True)
    except (OSError, ValidationError, SafetensorError, RuntimeError):
        return None
    module.eval().requires_grad_(requires_grad=False)
    return Plain(module, keep, config)


def _tensors(path: Path, names: list[str]) -> dict[str, torch.Tensor] | None:
    """Tensors of a file, if all are in float32.

    By way of NumPy, because that copies: what torch maps would change with the file after its hash was checked.
    """
    with safe_open(path, framework="numpy") as file:
        if any(file.get_slice(name).get_dtype() != "F32" for name in names):
            return None
        return {name: torch.from_numpy(file.get_tensor(name)) for name in names}
