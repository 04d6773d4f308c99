"""The frozen model that a KL penalty pulls towards: how much memory it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.stage import load_reference


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_takes_the_memory_of_the_training_precision(tmp_path: Path, precision: Any) -> None:
    """And in fp32 what two ranks hold of one file is in memory once: pages of the file, which nobody writes to."""
    config = LlamaConfig(
        vocab_size=4000, hidden_size=512, num_hidden_layers=2, intermediate_size=1024, num_attention_heads=4
    )
    policy = LlamaForCausalLM(config).eval()
    policy.save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    before = psutil.Process().memory_full_info().pss
    ranks = [load_reference(tmp_path, RlhfSpec(precision=precision), "cpu") for _ in range(2)]
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        expected = token_logprobs(policy, tokens, 1.0)
        for rank in ranks:
            found = token_logprobs(rank, tokens, 1.0)
            assert torch.equal(found, expected) if precision == "fp32" else torch.allclose(found, expected, atol=0.05)
            assert not any(weight.requires_grad for weight in rank.parameters())
            assert sum(weight.nbytes for weight in rank.parameters()) <= size / (1 if precision == "fp32" else 2)
    if precision == "fp32":
        assert psutil.Process().memory_full_info().pss - before < 1.5 * size
