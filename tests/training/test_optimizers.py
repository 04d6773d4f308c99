"""Muon and AdamW against PyTorch's own, and which weights each of them gets."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch

from pipelines.specs import PretrainSpec
from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.training.optimizers.muon import orthogonalize
from pipelines.stages.training.optimizers.optimizers import RULES, build_optimizer

SPEC = PretrainSpec(optimizer="muon", learning_rate=0.01, muon_learning_rate=0.02, weight_decay=0.1, precision="bf16")


def llama() -> torch.nn.Module:
    overrides = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 80}
    return build_model(configuration("llama-1m", overrides, vocab_size=50, sequence_length=16, eos_token_id=0), seed=1)


def test_three_steps_are_those_of_torch() -> None:
    ours, theirs = llama(), llama()
    hidden = [p for n, p in theirs.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in theirs.named_parameters() if not (p.ndim == 2 and "embed" not in n)]
    reference = [
        torch.optim.Muon(hidden, lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    optimizer = build_optimizer(ours, SPEC)
    optimizer.set_factor(1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for each in (optimizer, *reference):
            each.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        # The matrices went through bfloat16, rounded in another order: one part in a hundred of a step.
        assert torch.allclose(mine, other, atol=5e-4 if mine.ndim == 2 else 1e-6), name


def test_adafactor_is_that_of_torch() -> None:
    """Which takes the published step size, 1e-2 in the first 10,000 steps, as its default."""
    ours, theirs = llama(), llama()
    reference = torch.optim.Adafactor(theirs.parameters(), lr=1e-2)
    optimizer = build_optimizer(ours, PretrainSpec(optimizer="adafactor", learning_rate=1e-2, weight_decay=0.0))
    optimizer.set_factor(1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for (name, mine), other in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.allclose(mine, other[1], rtol=1e-5, atol=1e-7), name


def test_8_bit_adamw_is_that_of_bitsandbytes() -> None:
    from bitsandbytes.optim import AdamW8bit

    spec = PretrainSpec(optimizer="adamw8bit", learning_rate=0.01, weight_decay=0.1)
    ours, theirs = torch.nn.Linear(64, 96, bias=False), torch.nn.Linear(64, 96, bias=False)
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(ours, spec)
    optimizer.set_factor(1.0)
    reference = AdamW8bit(theirs.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        ours.weight.grad = torch.randn(ours.weight.shape, generator=generator)
        theirs.weight.grad = ours.weight.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(ours.weight, theirs.weight)
    state = optimizer.state[ours.weight]
    assert {state[name].dtype for name in ("exp_avg_codes", "exp_avg_sq_codes")} == {torch.uint8}


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_singular_values_come_close_to_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrix, torch.float32))
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor", "adamw8bit"])
def test_hidden_matrices_only_are_decayed(name: Literal["adamw", "muon", "adafactor", "adamw8bit"]) -> None:
    model = llama()
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(model, PretrainSpec(optimizer=name, weight_decay=0.1))
    optimizer.set_factor(1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert decayed == {n for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n}


def test_gpt2_scales_its_transposed_matrices_by_outputs_over_inputs() -> None:
    config = configuration("gpt2-1m", {"n_layer": 1, "n_embd": 32}, vocab_size=50, sequence_length=16, eos_token_id=0)
    model = build_model(config, seed=1)
    optimizer = build_optimizer(model, SPEC)
    scales = {n: optimizer.wholes[p].scale for n, p in model.named_parameters() if p in optimizer.wholes}
    assert scales["transformer.h.0.mlp.c_fc.weight"] == 2.0  # 32 inputs, 128 outputs
    assert scales["transformer.h.0.mlp.c_proj.weight"] == 1.0
    assert len(scales) == 4


@pytest.mark.parametrize("name", RULES)
def test_an_optimizer_goes_on_from_the_state_it_saved(name: str) -> None:
    models = [llama(), llama()]
    first, second = (build_optimizer(model, PretrainSpec(optimizer=name)) for model in models)
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        for parameter in models[0].parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        first.set_factor(1.0)
        first.step()
        if number == 1:
            models[1].load_state_dict(models[0].state_dict())
            for group, (saved, into) in enumerate(zip(first.param_groups, second.param_groups, strict=True)):
                for old, new in zip(saved["params"], into["params"], strict=True):
                    second.load_state(new, group, copy.deepcopy(first.save_state(old, group)))
    for mine, other in zip(*(model.parameters() for model in models), strict=True):
        other.grad = mine.grad
    second.set_factor(1.0)
    second.step()
    assert all(map(torch.equal, *(model.parameters() for model in models)))


def test_a_state_is_copied_while_deepspeed_steps_one_group() -> None:
    """A checkpoint's thread copies until the update: by then ZeRO has put the group in turn in the place of all."""
    optimizer = build_optimizer(llama(), SPEC)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.set_factor(1.0)
    optimizer.step()
    groups = optimizer.param_groups
    assert len(groups) > 1
    whole = [optimizer.save_state(group["params"][0], number) for number, group in enumerate(groups)]
    for number, group in enumerate(groups):
        for turn in groups:
            optimizer.param_groups = [turn]
            now = optimizer.save_state(group["params"][0], number)
            assert now.elements.keys() == whole[number].elements.keys() and now.numbers == whole[number].numbers
