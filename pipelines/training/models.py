"""Named model sizes as differences from the transformers configuration of their family.

The vocabulary comes from the token store and the context from its sequence length, so that a size fixes only what a
user means by it. Checking a size or its overrides reads configurations, never weights: it costs no cluster time.
Dropout is 0 in all sizes: at a few epochs it costs more than it gives (so do nanoGPT and the Llama family).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from cluster.errors import SpecError, nearest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

# Fields that follow from the token store; an override would contradict it.
DERIVED = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}

_GPT2 = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
_LLAMA_SMALL = {"tie_word_embeddings": True}


def _gpt2(hidden: int, layers: int, heads: int, positions: int = 1) -> dict[str, Any]:
    return {**_GPT2, "n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": positions}


def _llama(hidden: int, layers: int, heads: int, intermediate: int, positions: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": positions,
        **more,
    }


# Positions are a lower bound: the sequence length of the token store raises them.
SIZES: dict[str, dict[str, Any]] = {
    "gpt2-1m": _gpt2(128, 4, 2),
    "gpt2-10m": _gpt2(384, 6, 6),
    # The four published GPT-2 models (Radford et al. 2019, table 2).
    "gpt2-124m": _gpt2(768, 12, 12, 1024),
    "gpt2-355m": _gpt2(1024, 24, 16, 1024),
    "gpt2-774m": _gpt2(1280, 36, 20, 1024),
    "gpt2-1.5b": _gpt2(1600, 48, 25, 1024),
    "llama-1m": _llama(128, 4, 2, 352, **_LLAMA_SMALL),
    # The published sizes of llama2.c (Karpathy 2023).
    "llama-15m": _llama(288, 6, 6, 768, 256, **_LLAMA_SMALL),
    "llama-42m": _llama(512, 8, 8, 1376, 1024, **_LLAMA_SMALL),
    "llama-110m": _llama(768, 12, 12, 2048, 1024, **_LLAMA_SMALL),
    # Llama 2 7B (Touvron et al. 2023).
    "llama-7b": _llama(4096, 32, 32, 11008, 4096),
}


def configuration(
    model: str, overrides: dict[str, Any], *, vocab_size: int, sequence_length: int, eos_token_id: int
) -> PreTrainedConfig:
    """The transformers configuration of a named size. Raises SpecError for unknown sizes, fields and bad values."""
    if model not in SIZES:
        raise SpecError(f"pretrain.model: no size {model!r}", nearest(model, list(SIZES)))
    from transformers import GPT2Config, LlamaConfig

    family = GPT2Config if model.startswith("gpt2") else LlamaConfig
    aliases: dict[str, str] = family.attribute_map
    known = sorted({f.name for f in dataclasses.fields(family)} | aliases.keys())
    for name in overrides:
        if name in DERIVED:
            raise SpecError(f"pretrain.model_overrides.{name}: it follows from the tokenizer", "Leave it out.")
        if name not in known:
            raise SpecError(f"pretrain.model_overrides.{name}: no such field", nearest(name, known))
    fields = SIZES[model] | {aliases.get(name, name): value for name, value in overrides.items()}
    positions = aliases.get("max_position_embeddings", "max_position_embeddings")
    if overrides.keys() & {positions, "max_position_embeddings"} and fields[positions] < sequence_length:
        raise SpecError(
            f"pretrain.model_overrides: {fields[positions]} positions for sequences of {sequence_length} tokens",
            "Give at least as many, or leave it out.",
        )
    fields[positions] = max(fields[positions], sequence_length)
    tokens = {"vocab_size": vocab_size, "bos_token_id": eos_token_id, "eos_token_id": eos_token_id}
    try:
        config = family(**fields, **tokens, use_cache=True)
        heads, hidden = config.num_attention_heads, config.hidden_size
        if heads < 1 or hidden % heads:
            raise ValueError(f"hidden size {hidden} is not a multiple of {heads} attention heads")
    except Exception as error:  # transformers raises many kinds: its validators' own, ValueError, TypeError
        reason = " ".join(str(error).split())
        raise SpecError(f"pretrain.model_overrides: {reason}", f"See transformers' {family.__name__}.") from error
    return config


def build_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """The model with fresh fp32 weights, the same for one seed on every rank, and PyTorch's fused attention."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)


def count_parameters(model: torch.nn.Module) -> int:
    """Number of weights, tied ones counted once; right under ZeRO 3 too, where a rank holds only its part."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
