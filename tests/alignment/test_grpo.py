"""GRPO's arithmetic against its definition, and the reward that the demo trains on."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cluster.core.errors import SpecError
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.advantages import group_advantages
from pipelines.stages.alignment.grpo import Grpo, k3
from pipelines.stages.alignment.rewards.python_parses import python_parses
from pipelines.stages.alignment.rewards.rewards import reward_function
from pipelines.stages.alignment.rewards.sample import Sample


class Unigram(nn.Module):
    """The smallest model: the same logits everywhere."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, tokens: torch.Tensor, use_cache: bool) -> object:
        return type("Output", (), {"logits": self.logits.expand(*tokens.shape, -1)})()


def batch(behaviour: float, reference: float, advantage: float) -> dict[str, torch.Tensor]:
    """One sequence of three tokens, of which the last two are learned."""
    return {
        "tokens": torch.tensor([[0, 1, 1]]),
        "learn": torch.tensor([[False, True]]),
        "behaviour": torch.tensor([[0.0, behaviour]]),
        "reference": torch.tensor([[0.0, reference]]),
        "advantages": torch.tensor([advantage]),
    }


def grpo(model: nn.Module, kl_coef: float = 0.0, kl_penalty: Literal["token", "sequence"] = "token") -> Grpo:
    return Grpo(model, "fp32", clip_ratio=0.2, dual_clip=3.0, kl_coef=kl_coef, kl_penalty=kl_penalty, temperature=1.0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("behaviour", [math.log(0.5), math.log(0.9), math.log(0.1), math.log(0.01)])
def test_the_loss_is_its_definition(behaviour: float, advantage: float) -> None:
    model = Unigram([0.0, 0.0])  # log pi = log 0.5 everywhere
    loss = grpo(model, kl_coef=0.1)(batch(behaviour, math.log(0.25), advantage))
    ratio = 0.5 / math.exp(behaviour)
    surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    if advantage < 0:
        surrogate = max(surrogate, 3.0 * advantage)  # 50 times as likely, and no more than three times as bad
    penalty = ratio * (0.25 / 0.5 - math.log(0.25 / 0.5) - 1)
    assert loss.item() == pytest.approx(0.1 * penalty - surrogate, rel=1e-5)


class TwoSteps(nn.Module):
    """A policy of three tokens over two steps: logits of the first, and of the second by the first. Token 3 begins."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())  # (4, 3): by the token before

    def forward(self, tokens: torch.Tensor, use_cache: bool) -> object:
        return type("Output", (), {"logits": self.logits[tokens]})()


def log_policy(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def sequence_kl(logits: np.ndarray, reference: np.ndarray, prefixes: np.ndarray) -> float:
    """KL(policy || reference) over both steps, where the first token is distributed as `prefixes` for the second."""
    policy, other = log_policy(logits), log_policy(reference)
    by_prefix = (np.exp(policy) * (policy - other)).sum(-1)
    return float(by_prefix[3] + (prefixes * by_prefix[:3]).sum())


@pytest.mark.parametrize("kind", ["token", "sequence"])
@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_descends_the_kl_of_the_policy_to_the_reference(
    kind: Literal["token", "sequence"], seed: int
) -> None:
    """Every completion weighted by its probability, against finite differences. k3 alone fails: it has the gradient of
    KL(reference || policy)."""
    rng = np.random.default_rng(seed)
    logits, reference = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    policy, other = log_policy(logits), log_policy(reference)
    model = TwoSteps(torch.tensor(logits, dtype=torch.float32))
    for first, second in itertools.product(range(3), range(3)):
        drawn = torch.tensor([[policy[3, first], policy[first, second]]], dtype=torch.float32)
        sample = {
            "tokens": torch.tensor([[3, first, second]]),
            "learn": torch.ones(1, 2, dtype=torch.bool),
            "behaviour": drawn,
            "reference": torch.tensor([[other[3, first], other[first, second]]], dtype=torch.float32),
            "advantages": torch.zeros(1),
        }
        (math.exp(float(drawn.sum())) * grpo(model, 1.0, kind)(sample)).backward()
    fixed = np.exp(policy[3])  # the tokens before a token, held fixed

    def kl(at: np.ndarray) -> float:
        return sequence_kl(at, reference, fixed if kind == "token" else np.exp(log_policy(at)[3]))

    expected = np.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        expected[place] = (kl(logits + step) - kl(logits - step)) / 2e-5
    assert model.logits.grad is not None
    np.testing.assert_allclose(model.logits.grad.numpy(), expected, atol=1e-5)


def test_a_step_bound_by_the_kl_needs_a_penalty() -> None:
    with pytest.raises(SpecError, match="max_kl"):
        RlhfSpec(kl_coef=0.0, max_kl=0.5).check()


def test_a_good_answer_becomes_likelier_and_a_clipped_one_is_left() -> None:
    model = Unigram([0.0, 0.0])
    objective = grpo(model)
    objective(batch(math.log(0.5), math.log(0.5), 1.0)).backward()
    assert model.logits.grad is not None and model.logits.grad[1] < 0  # down the gradient, token 1 gains
    model.logits.grad = None
    objective(batch(math.log(0.3), math.log(0.5), 1.0)).backward()  # already 1.67 times as likely
    assert float(model.logits.grad.abs().sum()) == 0


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-5, 5), st.floats(0.1, 10))
def test_advantages_know_neither_offset_nor_scale(rewards: list[float], offset: float, scale: float) -> None:
    values = torch.tensor(rewards, dtype=torch.float64)
    found = group_advantages(values, len(rewards))
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-6)
    if float(values.std()) > 0.1:
        moved = group_advantages(values * scale + offset, len(rewards))
        assert torch.allclose(found, moved, atol=2e-2)


def test_groups_do_not_see_each_other() -> None:
    found = group_advantages(torch.tensor([1.0, 0.0, 5.0, 5.0]), 2)
    assert found.tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-3)


@given(st.floats(-8, 0), st.floats(-8, 0))
def test_k3_is_never_negative(logprob: float, reference: float) -> None:
    assert float(k3(torch.tensor(logprob, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64))) >= 0


REQUEST = 'def add(a, b):\n    """Add two numbers."""'


@pytest.mark.parametrize(
    ("answer", "finished", "reward"),
    [
        ("    return a + b", True, 1.0),
        ("    return a + b", False, 0.0),  # cut off, whatever it looks like
        ("    return (a + b", True, 0.0),
        ("", True, 0.0),  # the docstring alone is no body
        ("return a + b", True, 0.0),  # beside the function, not in it
        ("    return a\ndef more():\n    pass", True, 0.0),  # a second function
        ("    return '\\d'", True, 1.0),
        ("    return a\x00", True, 0.0),
    ],
)
def test_python_parses(answer: str, finished: bool, reward: float) -> None:
    sample = Sample([{"role": "user", "content": REQUEST}], answer, finished)
    assert python_parses(sample) == reward


def test_a_reward_of_ones_own_and_one_that_is_not_there() -> None:
    assert reward_function("math:sqrt") is math.sqrt
    with pytest.raises(SpecError, match="python_parses"):
        reward_function("python_parse")
    with pytest.raises(SpecError, match="nowhere"):
        reward_function("math:nowhere")
