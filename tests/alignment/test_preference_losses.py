"""Losses on preferences and of reward models: equal to their formulas in numpy, gradients to finite differences."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForSequenceClassification

from pipelines.specs import Dpo, Ipo, Kto, Orpo, Simpo
from pipelines.stages.alignment.logprobs import label_logprobs
from pipelines.stages.alignment.offline.losses.loss import Answers, PreferenceLoss
from pipelines.stages.alignment.ranking import (
    calibration_error,
    in_lists,
    in_order,
    ranking_losses,
    scores,
    scores_by_length,
)

Array = NDArray[np.float64]

# Log-probabilities of the policy and of the reference (nats an answer) and tokens: alike, far apart both ways, a sure
# answer and one of a token, and one that is all but impossible.
POLICY = np.array([-30.0, -30.0, -5.0, -400.0, -1e-5, -0.01, -700.0, -12.5])
REFERENCE = np.array([-30.0, -28.0, -105.0, -20.0, -0.7, -9.0, -1.0, -12.5])
TOKENS = np.array([10.0, 7.0, 3.0, 40.0, 1.0, 1.0, 20.0, 5.0])


def sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def softplus(x: Array) -> Array:
    """-log sigmoid(-x)."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def pairs(values: Array) -> tuple[Array, Array]:
    return values[0::2], values[1::2]


def dpo(loss: Dpo, logprobs: Array) -> Array:
    won, lost = pairs(logprobs - REFERENCE)
    h = loss.beta * (won - lost)
    return (1 - loss.label_smoothing) * softplus(-h) + loss.label_smoothing * softplus(h)


def ipo(loss: Ipo, logprobs: Array) -> Array:
    won, lost = pairs((logprobs - REFERENCE) / (TOKENS if loss.per_token else 1))
    return (won - lost - 1 / (2 * loss.tau)) ** 2


def orpo(loss: Orpo, logprobs: Array) -> Array:
    means = pairs(logprobs / TOKENS)
    odds = [np.log(np.exp(mean) / -np.expm1(mean)) for mean in means]
    return -means[0] + loss.weight * softplus(-(odds[0] - odds[1]))


def simpo(loss: Simpo, logprobs: Array) -> Array:
    won, lost = pairs(logprobs / TOKENS)
    return softplus(-(loss.beta * (won - lost) - loss.gamma))


PAIRED: list[tuple[PreferenceLoss, Any]] = [
    (Dpo(), dpo),
    (Dpo(beta=0.5, label_smoothing=0.2), dpo),
    (Ipo(), ipo),
    (Ipo(tau=0.5, per_token=False), ipo),
    (Orpo(weight=0.3), orpo),
    (Simpo(gamma=1.6), simpo),
]


def answers(logprobs: torch.Tensor, rows: slice = slice(None)) -> Answers:
    return Answers(logprobs[rows], torch.from_numpy(REFERENCE)[rows], torch.from_numpy(TOKENS)[rows])


def differences(function: Any, at: Array, step: float = 1e-6) -> Array:
    """Central differences of the sum of a function's values."""
    found = np.zeros_like(at)
    for index in range(at.size):
        moved = [at.copy(), at.copy()]
        width = step * max(1.0, abs(at.flat[index])) if at.flat[index] < -1e-3 else 1e-9
        for sign, there in zip((1, -1), moved, strict=True):
            there.flat[index] += sign * width
        found.flat[index] = (function(moved[0]) - function(moved[1])).sum() / (2 * width)
    return found


@pytest.mark.parametrize(("loss", "formula"), PAIRED)
def test_losses_of_pairs(loss: PreferenceLoss, formula: Any) -> None:
    logprobs = torch.from_numpy(POLICY.copy()).requires_grad_()
    found = loss.of_pairs(answers(logprobs, slice(0, None, 2)), answers(logprobs, slice(1, None, 2)))
    np.testing.assert_allclose(found.detach(), formula(loss, POLICY), rtol=1e-6, atol=1e-6)
    found.sum().backward()
    assert logprobs.grad is not None
    expected = differences(lambda at: formula(loss, at), POLICY)
    np.testing.assert_allclose(logprobs.grad, expected, rtol=2e-5, atol=1e-6)
    margins = loss.rewards(answers(logprobs)).detach()
    assert torch.isfinite(margins).all()


@pytest.mark.parametrize("baseline", [-3.0, 4.0])
@pytest.mark.parametrize("desirable", ["10110100", "11111111", "00000000"])
def test_kto_of_batches_with_one_side_too(desirable: str, baseline: float) -> None:
    """Of answers that are all wanted, or all unwanted, the loss is as finite as of both."""
    loss = Kto(beta=0.3, desirable_weight=1.5, undesirable_weight=0.7)
    wanted = np.array([letter == "1" for letter in desirable])

    def formula(at: Array) -> Array:
        above = loss.beta * (at - REFERENCE - max(0.0, baseline))
        return np.where(wanted, 1.5 * (1 - sigmoid(above)), 0.7 * (1 - sigmoid(-above)))

    logprobs = torch.from_numpy(POLICY.copy()).requires_grad_()
    level = torch.tensor(baseline, dtype=torch.float64, requires_grad=True)
    found = loss.of_each(answers(logprobs), torch.from_numpy(wanted), level)
    np.testing.assert_allclose(found.detach(), formula(POLICY), rtol=1e-6, atol=1e-6)
    found.sum().backward()
    assert level.grad is None  # it is held fixed
    np.testing.assert_allclose(logprobs.grad, differences(formula, POLICY), rtol=2e-5, atol=1e-6)


def test_log_probabilities_of_labels() -> None:
    """In blocks, of factors that differ by row; the logits become their gradient."""
    rng = np.random.default_rng(0)
    values, labels = torch.from_numpy(rng.normal(0, 30, (700, 1000))), torch.from_numpy(rng.integers(0, 1000, 700))
    factors = torch.from_numpy(rng.normal(size=700))
    expected_logits, logits = (values.clone().requires_grad_() for _ in range(2))
    expected = expected_logits.log_softmax(1).gather(1, labels[:, None])[:, 0]
    found = label_logprobs(logits * 1.0, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    (expected * factors).sum().backward()
    (found * factors).sum().backward()
    torch.testing.assert_close(logits.grad, expected_logits.grad, rtol=0, atol=1e-12)


# Scores of lists, the best first; margins; ties.
LISTS = [[3.0, -2.0], [0.0, 0.0], [-40.0, 50.0], [1.5, 1.4], [2.0, 1.0, 0.5], [-3.0, 4.0, 4.0, -80.0, 10.0]]
MARGINS = np.array([0.0, 1.0, 0.5, 0.0, 0.0, 0.0])
TIES = np.array([False, False, False, True, False, False])


def plackett_luce(scores: Array) -> Array:
    """By the definition: of all that are left, the next is drawn in proportion to exp(score)."""
    losses, at = [], 0
    for size, margin, tie in zip(map(len, LISTS), MARGINS, TIES, strict=True):
        own = scores[at : at + size]
        at += size
        if tie:
            losses.append((softplus(own[1] - own[0]) + softplus(own[0] - own[1])) / 2)
            continue
        behind = (np.logaddexp.reduce(own[place + 1 :]) for place in range(size - 1))
        losses.append(sum(softplus(tail - own[place] + margin) for place, tail in enumerate(behind)))
    return np.array(losses)


def test_reward_models_loss_of_pairs_lists_margins_and_ties() -> None:
    flat, sizes = np.array(list(itertools.chain.from_iterable(LISTS))), torch.tensor([len(one) for one in LISTS])
    scores = torch.from_numpy(flat.copy()).requires_grad_()
    lists = in_lists(scores, sizes)
    found = ranking_losses(lists, sizes, torch.from_numpy(MARGINS), torch.from_numpy(TIES))
    np.testing.assert_allclose(found.detach(), plackett_luce(flat), rtol=1e-9, atol=1e-12)
    found.sum().backward()
    np.testing.assert_allclose(scores.grad, differences(plackett_luce, flat), rtol=2e-5, atol=1e-6)
    shares = in_order(lists, sizes, torch.from_numpy(TIES)).tolist()
    own = [[one > other for one, other in itertools.combinations(each, 2)] for each in LISTS]
    assert shares == pytest.approx([0.5 if tie else sum(o) / len(o) for o, tie in zip(own, TIES, strict=True)])


def test_of_pairs_alone_the_loss_has_the_bits_of_bradley_and_terry() -> None:
    """What was trained before lists were known is trained so still."""
    scores, sizes = torch.randn(64, generator=torch.Generator().manual_seed(0)) * 5, torch.full((32,), 2)
    nothing = torch.zeros(32)
    one, two = (scores.clone().requires_grad_() for _ in range(2))
    found = ranking_losses(in_lists(one, sizes), sizes, nothing, nothing.bool()).sum()
    expected = -torch.nn.functional.logsigmoid(two[0::2] - two[1::2]).sum()
    found.backward()
    expected.backward()
    assert found.item() == expected.item()
    assert one.grad is not None and two.grad is not None
    assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("passes", [1, 2, 4, 5])
def test_scores_in_passes_by_length_are_those_at_once(passes: int) -> None:
    torch.manual_seed(0)
    small = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_labels=1,
        pad_token_id=0,
    )  # fmt: skip
    model = LlamaForSequenceClassification(small)
    lengths = torch.tensor([7, 2, 9, 2, 5])
    tokens = torch.randint(1, 50, (5, 9)) * (torch.arange(9) < lengths.unsqueeze(1))
    whole = scores(model, tokens, lengths)
    found = scores_by_length(model, tokens, lengths, passes)
    torch.testing.assert_close(found, whole)
    weights = torch.arange(5.0)
    expected = torch.autograd.grad(whole @ weights, model.score.weight)
    torch.testing.assert_close(torch.autograd.grad(found @ weights, model.score.weight), expected)


def test_calibration_error() -> None:
    """Of one who says 0.75 and is right three times of four it is 0; of one who is sure and always wrong, 1."""
    sure = np.log(3.0)
    assert calibration_error(np.array([sure, sure, sure, -sure]), np.ones(4)) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(np.array([-50.0, -60.0]), np.ones(2)) == pytest.approx(1.0)
    assert calibration_error(np.array([sure, -50.0]), np.array([3.0, 1.0])) == pytest.approx(0.25 * 0.75 + 0.25)
