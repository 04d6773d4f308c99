"""GLM, the model of blank infilling (Du et al. 2022, arXiv:2103.10360): a transformer with two positions a token.

As published: layer norms before each block and a last one, GELU, word embeddings tied to the output, learned embeddings
of the position in the text and of the position within a blank. The names of the parameters are those of the published
checkpoints. No dropout, as in the other families. Importing this module makes the family known to transformers' `Auto`
classes.

In their place, both positions may turn queries and keys (RoPE: Su et al. 2021, arXiv:2104.09864), each of them half of
a head, as in the code of its successor ChatGLM-6B (`position_encoding_2d`). What stands next to a blank need then not
be learned from the few tokens that blanks ask for: small models learn to fill them much sooner.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutput

ROTARY_BASE = 10_000.0


@strict
class BlankGlmConfig(PreTrainedConfig):
    """The fields of a GLM. `max_position_embeddings` bounds both positions."""

    model_type = "blank_glm"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    position_embedding_type: str = "learned"  # or "rotary"
    vocab_size: int = 30592
    initializer_range: float = 0.02
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True

    def validate_architecture(self) -> None:
        """Called by transformers. Raises ValueError for other kinds of positions, or where two cannot share a head."""
        super().validate_architecture()
        kind, heads = self.position_embedding_type, self.num_attention_heads
        if kind not in ("learned", "rotary"):
            raise ValueError(f"position_embedding_type is learned or rotary, not {kind!r}")
        if kind == "rotary" and heads > 0 and self.hidden_size % (4 * heads):
            raise ValueError(f"rotary positions need a hidden size of a multiple of 4 x {heads} heads")


def rotation(positions: Tensor, head_size: int) -> Tensor:
    """Cosines and sines, (2, batch, 1, length, 2, head_size / 4) float32, of positions (batch, 2, length)."""
    exponents = torch.arange(0, head_size // 2, 2, device=positions.device) / (head_size // 2)
    angles = positions.transpose(1, 2)[:, None, :, :, None] * ROTARY_BASE**-exponents
    return torch.stack([angles.cos(), angles.sin()])


def rotated(heads: Tensor, turn: Tensor) -> Tensor:
    """Queries or keys (batch, heads, length, head_size): their first half by the position in the text, their second by
    the one in the blank."""
    cos, sin = turn.to(heads.dtype)
    first, second = heads.unflatten(-1, (2, 2, -1)).unbind(-2)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-2).flatten(-3)


class Attention(nn.Module):
    def __init__(self, config: BlankGlmConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor, turn: Tensor | None) -> Tensor:
        shape = (*hidden.shape[:2], self.heads, -1)
        query, key, value = (part.view(shape).transpose(1, 2) for part in self.query_key_value(hidden).chunk(3, dim=-1))
        if turn is not None:
            query, key = rotated(query, turn), rotated(key, turn)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.dense(found.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config: BlankGlmConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.dense_4h_to_h = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(hidden), approximate="tanh"))


class Layer(GradientCheckpointingLayer):
    def __init__(self, config: BlankGlmConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.attention = Attention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mlp = Mlp(config)

    def forward(self, hidden: Tensor, mask: Tensor, turn: Tensor | None) -> Tensor:
        hidden = hidden + self.attention(self.input_layernorm(hidden), mask, turn)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Transformer(nn.Module):
    def __init__(self, config: BlankGlmConfig) -> None:
        super().__init__()
        self.rotary_size = 0
        if config.position_embedding_type == "rotary":
            self.rotary_size = config.hidden_size // config.num_attention_heads
        else:
            positions = config.max_position_embeddings + 1
            self.position_embeddings = nn.Embedding(positions, config.hidden_size)
            self.block_position_embeddings = nn.Embedding(positions, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        turn = None
        if self.rotary_size:
            turn = rotation(positions, self.rotary_size)
        else:
            hidden = hidden + self.position_embeddings(positions[:, 0])
            hidden = hidden + self.block_position_embeddings(positions[:, 1])
        for layer in self.layers:
            hidden = layer(hidden, mask, turn)
        return self.final_layernorm(hidden)


class BlankGlm(PreTrainedModel):
    """`input_ids` (batch, length); `position_ids` (batch, 2, length): in the text and in the blank; `attention_mask`
    (batch, 1, length, length) bool: which token (row) sees which."""

    config_class = BlankGlmConfig
    base_model_prefix = "transformer"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _tied_weights_keys: Any = {}

    def __init__(self, config: BlankGlmConfig) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = Transformer(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.word_embeddings

    def forward(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, **more: Any) -> CausalLMOutput:
        hidden = self.transformer(self.word_embeddings(input_ids), position_ids, attention_mask)
        return CausalLMOutput(logits=F.linear(hidden, self.word_embeddings.weight))


AutoConfig.register("blank_glm", BlankGlmConfig)
AutoModelForCausalLM.register(BlankGlmConfig, BlankGlm)
