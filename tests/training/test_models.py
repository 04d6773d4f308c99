"""Named sizes have their published parameter counts; bad overrides are told before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster.errors import SpecError
from pipelines.training.models import SIZES, build_model, configuration, count_parameters


def config(  # type: ignore[no-untyped-def]
    model: str, vocab: int, overrides: dict[str, Any] | None = None, sequence_length: int = 64
):
    return configuration(model, overrides or {}, vocab_size=vocab, sequence_length=sequence_length, eos_token_id=0)


@pytest.mark.parametrize(
    ("model", "vocab_size", "parameters"),
    [
        ("gpt2-124m", 50257, 124_439_808),
        ("gpt2-355m", 50257, 354_823_168),
        ("gpt2-774m", 50257, 774_030_080),
        ("gpt2-1.5b", 50257, 1_557_611_200),
        ("llama-15m", 32000, 15_191_712),
        ("llama-110m", 32000, 109_529_856),
        ("llama-7b", 32000, 6_738_415_616),
        ("llama-1m", 2048, 1_066_112),
    ],
)
def test_sizes_have_their_published_parameter_counts(model: str, vocab_size: int, parameters: int) -> None:
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config(model, vocab_size))
    assert count_parameters(built) == parameters


def test_every_size_has_room_for_the_sequence() -> None:
    for model in SIZES:
        assert config(model, 100, sequence_length=5000).max_position_embeddings == 5000


@pytest.mark.parametrize(
    ("model", "overrides", "words"),
    [
        ("gpt2-124", {}, "gpt2-124m"),
        ("llama-1m", {"num_hidden_layer": 2}, "num_hidden_layers"),
        ("llama-1m", {"vocab_size": 100}, "tokenizer"),
        ("llama-1m", {"hidden_size": 100, "num_attention_heads": 3}, "multiple"),
        ("gpt2-1m", {"n_embd": 100, "n_head": 3}, "multiple"),
        ("llama-1m", {"hidden_size": "large"}, "hidden_size"),
        ("llama-1m", {"max_position_embeddings": 8}, "positions"),
    ],
)
def test_bad_sizes_and_overrides_are_told(model: str, overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        config(model, 100, overrides)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (build_model(config("llama-1m", 64), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
