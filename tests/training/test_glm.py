"""GLM's two positions where they turn queries and keys: as published for ChatGLM-6B, and relative."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.stages.training.models.glm import rotated, rotation
from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.training.objectives.infilling import infill, visible

VOCAB, LENGTH, HEAD = 50, 32, 16
MASK, START, END = 47, 48, 49


def test_each_half_of_a_head_turns_by_its_own_position() -> None:
    """Against complex numbers: of a half of n numbers, the k-th and the one n / 2 behind it turn by 10000^(-2k/n)."""
    heads = torch.randn(2, 3, 5, HEAD, dtype=torch.float64)
    positions = torch.randint(0, 100, (2, 2, 5))
    found = rotated(heads, rotation(positions, HEAD).double())
    half = HEAD // 2
    frequencies = torch.tensor([10_000 ** (-2 * k / half) for k in range(half // 2)], dtype=torch.float64)
    for number in (0, 1):
        part = heads[..., number * half : (number + 1) * half]
        turns = torch.polar(torch.tensor(1.0, dtype=torch.float64), positions[:, None, number, :, None] * frequencies)
        turned = torch.complex(part[..., : half // 2], part[..., half // 2 :]) * turns
        expected = torch.cat([turned.real, turned.imag], dim=-1)
        assert torch.allclose(found[..., number * half : (number + 1) * half], expected, atol=1e-5)


def logits(model: Any, positions: np.ndarray, block_positions: np.ndarray, inputs: np.ndarray) -> torch.Tensor:
    block = torch.from_numpy(block_positions).unsqueeze(0)
    both = torch.stack([torch.from_numpy(positions).unsqueeze(0), block], dim=1)
    mask = visible(torch.zeros_like(block), block)
    with torch.no_grad():
        found: torch.Tensor = model(
            torch.from_numpy(inputs).unsqueeze(0), position_ids=both, attention_mask=mask
        ).logits
    return found


@pytest.mark.parametrize("kind", ["learned", "rotary"])
def test_rotary_positions_are_relative_and_both_count(kind: str) -> None:
    overrides = {"position_embedding_type": kind, "initializer_range": 0.2}
    config = configuration("glm-1m", overrides, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=0)
    model = build_model(config, seed=0).eval()
    blanks = infill(np.arange(10, 22), [(3, 5), (8, 10)], [1, 0], MASK, START, END)
    text, block = blanks.positions, blanks.block_positions
    plain = logits(model, text, block, blanks.inputs)
    moved = logits(model, text + 7, block, blanks.inputs)
    assert torch.allclose(moved, plain, atol=1e-4) == (kind == "rotary")
    in_part_a = block == 0
    swapped = np.where(in_part_a, text, np.where(text == 3, 7, 3))  # which blank it is that a token of part B is in
    alike = np.where(in_part_a, 0, 1)  # where in its blank
    for changed in (logits(model, swapped, block, blanks.inputs), logits(model, text, alike, blanks.inputs)):
        assert float((changed - plain).abs()[0, block == 2].min(dim=0).values.max()) > 1e-2
