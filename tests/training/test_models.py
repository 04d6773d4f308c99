"""Named sizes have their published parameter counts; bad overrides are told before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from cluster.core.errors import SpecError
from pipelines.stages.training.models.models import build_model, configuration, count_parameters
from pipelines.stages.training.models.sizes import SIZES
from pipelines.stages.training.objectives.causal import CausalLM


def config(  # type: ignore[no-untyped-def]
    model: str | dict[str, Any], vocab: int, overrides: dict[str, Any] | None = None, sequence_length: int = 64
):
    return configuration(model, overrides or {}, vocab_size=vocab, sequence_length=sequence_length, eos_token_id=0)


PUBLISHED = [name for name, size in SIZES.items() if size.parameters]


def parameters(name: str, vocab_size: int) -> int:
    """How many weights a size has, none of them made."""
    head = AutoModelForMaskedLM if SIZES[name].family == "bert" else AutoModelForCausalLM
    with torch.device("meta"):
        return count_parameters(head.from_config(config(name, vocab_size)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_have_their_published_parameter_counts(name: str) -> None:
    assert parameters(name, SIZES[name].vocab_size) == SIZES[name].parameters


def test_the_smallest_have_a_million() -> None:
    for name in (name for name in SIZES if name.endswith("-1m")):
        assert 0.9e6 < parameters(name, 2048) < 1.5e6, name


def test_every_size_has_room_for_the_sequence() -> None:
    for name, size in SIZES.items():
        found = config(name, 100, sequence_length=500_000)
        assert size.family == "bloom" or found.max_position_embeddings == 500_000  # ALiBi has no positions


@pytest.mark.parametrize(
    ("model", "overrides", "words"),
    [
        ({"hidden_size": 64}, {}, "config.json"),
        ({"model_type": "lama"}, {}, "'llama'"),
        ({"model_type": "llama", "hidden_layers": 3}, {}, "hidden_layers"),
        ("gpt2-124", {}, "gpt2-124m"),
        ("llama-1m", {"num_hidden_layer": 2}, "num_hidden_layers"),
        ("llama-1m", {"vocab_size": 100}, "tokenizer"),
        ("llama-1m", {"hidden_size": 100, "num_attention_heads": 3}, "multiple"),
        ("gpt2-1m", {"n_embd": 100, "n_head": 3}, "multiple"),
        ("llama-1m", {"hidden_size": "large"}, "hidden_size"),
        ("glm-1m", {"position_embedding_type": "round"}, "learned or rotary, not 'round'"),
        ("glm-1m", {"position_embedding_type": "rotary", "num_attention_heads": 64}, "multiple of 4 x 64 heads"),
        ("llama-1m", {"max_position_embeddings": 8}, "positions"),
    ],
)
def test_bad_sizes_and_overrides_are_told(model: str | dict[str, Any], overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        config(model, 100, overrides)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (build_model(config("llama-1m", 64), seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


FAMILIES: list[str | dict[str, Any]] = [
    "gpt2-1m",
    "llama-1m",
    "pythia-1m",
    "bloom-1m",
    *(
        {
            "model_type": family,
            "architectures": ["As a config.json has it"],
            "vocab_size": 32000,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 96,
            **({"head_dim": 32} if family == "glm" else {}),
        }
        for family in ("stablelm", "glm", "qwen3", "mistral")
    ),
]


@pytest.mark.parametrize("model", FAMILIES, ids=lambda model: model if isinstance(model, str) else model["model_type"])
def test_documents_in_one_sequence_do_not_see_each_other(model: str | dict[str, Any]) -> None:
    """Their losses packed are those that they have alone, in every family and with every kind of position."""
    built = CausalLM(build_model(config(model, 100), seed=1), 0, "fp32").eval()
    end = torch.zeros(1, 1, dtype=torch.long)
    texts = [torch.randint(1, 100, (1, length), generator=torch.Generator().manual_seed(length)) for length in (9, 17)]
    with torch.no_grad():
        packed = built(torch.cat([end, texts[0], end, texts[1], end], 1))
        alone = sum(built(torch.cat([end, text, end], 1)) for text in texts)
    assert float(packed) == pytest.approx(float(alone), rel=1e-5)
