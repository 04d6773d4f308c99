"""Initial weights, measured: each family's as it was published with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pipelines.stages.training.models.models import build_model, configuration

LAYERS, HIDDEN = 4, 128


def built(model: str, overrides: dict[str, Any] | None = None) -> torch.nn.Module:
    config = configuration(model, overrides or {}, vocab_size=512, sequence_length=64, eos_token_id=0)
    return build_model(config, seed=1)


def deviations(model: torch.nn.Module, part: str) -> list[float]:
    """Standard deviations of the matrices whose names hold `part`."""
    found = [float(p.detach().std()) for name, p in model.named_parameters() if part in name and p.dim() == 2]
    assert found
    return found


NORMAL = 0.02
RESIDUAL = NORMAL / math.sqrt(2 * LAYERS)
SMALL_INIT, WANG_INIT = math.sqrt(2 / (5 * HIDDEN)), 2 / (LAYERS * math.sqrt(HIDDEN))


@pytest.mark.parametrize(
    ("model", "part", "expected"),
    [
        ("gpt2-1m", "wte", NORMAL),
        ("gpt2-1m", "c_attn", NORMAL),
        ("gpt2-1m", "c_proj", RESIDUAL),
        ("llama-1m", "embed_tokens", NORMAL),
        ("llama-1m", "down_proj", NORMAL),
        ("pythia-1m", "embed_in", SMALL_INIT),
        ("pythia-1m", "query_key_value", SMALL_INIT),
        ("pythia-1m", "dense_h_to_4h", SMALL_INIT),
        ("pythia-1m", "lm_head", SMALL_INIT),
        ("pythia-1m", "attention.dense", WANG_INIT),
        ("pythia-1m", "dense_4h_to_h", WANG_INIT),
        ("bloom-1m", "word_embeddings.weight", 0.0048),
        ("bloom-1m", "dense_h_to_4h", 0.0048),
        ("bloom-1m", "self_attention.dense", 0.0048 / math.sqrt(2 * LAYERS)),
        ("bloom-1m", "dense_4h_to_h", 0.0048 / math.sqrt(2 * LAYERS)),
        ("glm-1m", "word_embeddings", NORMAL),
        ("glm-1m", "position_embeddings", NORMAL),
        ("glm-1m", "query_key_value", NORMAL),
        ("glm-1m", "attention.dense", RESIDUAL),
        ("glm-1m", "dense_4h_to_h", RESIDUAL),
        # A normal distribution, cut at two of its standard deviations, has 0.8796 of it.
        ("bert-1m", "word_embeddings", 0.8796 * NORMAL),
        ("bert-1m", "output.dense", 0.8796 * NORMAL),
    ],
)
def test_deviations_are_the_published_ones(model: str, part: str, expected: float) -> None:
    assert all(found == pytest.approx(expected, rel=0.03) for found in deviations(built(model), part))


def test_bert_draws_nothing_beyond_two_deviations() -> None:
    model = built("bert-1m")
    assert max(float(p.detach().abs().max()) for p in model.parameters() if p.dim() == 2) <= 2 * NORMAL + 1e-6


def test_biases_are_zero_and_norms_one() -> None:
    for name in ("pythia-1m", "bloom-1m", "glm-1m", "bert-1m"):
        vectors = [(n, p) for n, p in built(name).named_parameters() if p.dim() == 1]
        assert {float(v) for _, p in vectors for v in p.detach()} == {0.0, 1.0}, name


def test_a_deviation_of_ones_own_is_kept() -> None:
    model = built("pythia-1m", {"initializer_range": 0.01})
    assert deviations(model, "embed_in") == pytest.approx([0.01], rel=0.03)
    assert deviations(model, "dense_4h_to_h") == pytest.approx([WANG_INIT] * LAYERS, rel=0.03)


@pytest.mark.parametrize("model", ["gpt2-1m", "llama-1m"])
def test_where_transformers_draws_as_published_nothing_is_drawn_again(model: str) -> None:
    config = configuration(model, {}, vocab_size=512, sequence_length=64, eos_token_id=0)
    torch.manual_seed(1)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32).state_dict()
    assert all(torch.equal(plain[name], weight) for name, weight in built(model).state_dict().items())


def test_the_seed_decides_the_weights() -> None:
    config = configuration("bert-1m", {}, vocab_size=64, sequence_length=16, eos_token_id=0)
    first, again, other = (build_model(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["bert.embeddings.word_embeddings.weight"], other["bert.embeddings.word_embeddings.weight"]
    )
