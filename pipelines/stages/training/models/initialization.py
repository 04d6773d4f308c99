"""Initial weights as each family was published with, where transformers draws others.

It draws normal weights of `initializer_range` (0.02), and does what GPT-2 does besides (Radford et al. 2019: the layers
that end a residual branch divided by sqrt(2 * layers)). Llama, StableLM and the rest stay so. Normal weights are
scaled, not drawn anew. Families that come from Megatron call the layers that end a branch alike.

- GPT-NeoX, and with it Pythia: sqrt(2 / (5 * hidden)) (Nguyen and Salazar 2019), 2 / (layers * sqrt(hidden)) for the
  ends of branches (Wang; GPT-NeoX-20B, arXiv:2204.06745, section 2.2).
- Bloom: 0.0048 at every size (BigScience's training scripts), ends of branches divided by sqrt(2 * layers) (Megatron).
- GLM: 0.02, ends of branches divided by sqrt(2 * layers) (its code).
- BERT: 0.02, cut at two standard deviations (google-research/bert, `truncated_normal_initializer`).
"""

from __future__ import annotations

import math
from typing import Any

import torch

BLOOM_STD = 0.0048
ENDS_OF_BRANCHES = ("attention.dense", "mlp.dense_4h_to_h")


def initialize(model: Any) -> None:
    """Change freshly drawn weights in place; draws only for BERT, from torch's generator.

    An `initializer_range` that is not the family's default is what a user wants: it stays.
    """
    config = model.config
    drawn, own = config.initializer_range, config.initializer_range != type(config)().initializer_range
    ends = drawn / math.sqrt(2 * config.num_hidden_layers)
    match config.model_type:
        case "gpt_neox":
            inside = drawn if own else math.sqrt(2 / (5 * config.hidden_size))
            _scale(model, inside / drawn, 2 / (config.num_hidden_layers * math.sqrt(config.hidden_size)) / drawn)
        case "bloom":
            std = drawn if own else BLOOM_STD
            _scale(model, std / drawn, std / drawn * ends / drawn)
        case "blank_glm":
            _scale(model, 1.0, ends / drawn)
        case "bert":
            for _, weight in _matrices(model):
                torch.nn.init.trunc_normal_(weight, std=drawn, a=-2 * drawn, b=2 * drawn)


@torch.no_grad()
def _scale(model: torch.nn.Module, inside: float, ends: float) -> None:
    for name, weight in _matrices(model):
        weight.mul_(ends if name.endswith(ENDS_OF_BRANCHES) else inside)


def _matrices(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    """Weights of the linear and embedding layers by the name of their layer; tied ones once."""
    found: dict[torch.nn.Parameter, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            found.setdefault(module.weight, name)
    return [(name, weight) for weight, name in found.items()]
