"""GLM, the model of blank infilling (Du et al. 2022, arXiv:2103.10360): a transformer with two positions a token.

As published: layer norms before each block and a last one, GELU, word embeddings tied to the output, learned embeddings
of the position in the text and of the position within a blank. The names of the parameters are those of the published
checkpoints. No dropout, as in the other families. Importing this module makes the family known to transformers' `Auto`
classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutput


class BlankGlmConfig(PreTrainedConfig):
    """The fields of a GLM. `max_position_embeddings` bounds both positions."""

    model_type = "blank_glm"
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 512
    vocab_size: int = 30592
    initializer_range: float = 0.02
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True


class Attention(nn.Module):
    def __init__(self, config: BlankGlmConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        shape = (*hidden.shape[:2], self.heads, -1)
        query, key, value = (part.view(shape).transpose(1, 2) for part in self.query_key_value(hidden).chunk(3, dim=-1))
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

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = hidden + self.attention(self.input_layernorm(hidden), mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Transformer(nn.Module):
    def __init__(self, config: BlankGlmConfig) -> None:
        super().__init__()
        positions = config.max_position_embeddings + 1
        self.position_embeddings = nn.Embedding(positions, config.hidden_size)
        self.block_position_embeddings = nn.Embedding(positions, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_epsilon)

    def forward(self, hidden: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        hidden = hidden + self.position_embeddings(positions[:, 0]) + self.block_position_embeddings(positions[:, 1])
        for layer in self.layers:
            hidden = layer(hidden, mask)
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
