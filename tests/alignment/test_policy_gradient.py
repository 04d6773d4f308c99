"""The arithmetic of policy gradients against its definitions, and the reward that the demo trains on."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cluster.core.errors import SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.location import Location
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.advantages import Group, LeaveOneOut, NormalizedBatch
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.losses import Cispo, Clipped, Gspo
from pipelines.stages.alignment.packing import overlong, token_weights
from pipelines.stages.alignment.policy_gradient import PolicyGradient, k3
from pipelines.stages.alignment.rewards.python_parses import PythonParses
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.rollout import Rollout, forget, minibatch
from pipelines.stages.generation.engine import Completion
from pipelines.stages.training.models.models import build_model, configuration
from tests.alignment.tiny_chat import rlhf


class Unigram(nn.Module):
    """The smallest model: the same logits everywhere."""

    config = SimpleNamespace(_attn_implementation="eager")

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits, self.head = nn.Parameter(torch.tensor(logits)), nn.Identity()

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, tokens: torch.Tensor, use_cache: bool) -> object:
        return type("Output", (), {"logits": self.head(self.logits.expand(*tokens.shape, -1))})()


def batch(behaviour: float, reference: float, advantage: float) -> dict[str, torch.Tensor]:
    """One sequence of three tokens, of which the last two are learned."""
    return {
        "tokens": torch.tensor([[0, 1, 1]]),
        "learn": torch.tensor([[False, True]]),
        "behaviour": torch.tensor([[0.0, behaviour]]),
        "reference": torch.tensor([[0.0, reference]]),
        "advantages": torch.tensor([advantage]),
        "weights": torch.ones(1),
    }


def objective(
    model: nn.Module, kl_coef: float = 0.0, kl_penalty: Literal["token", "sequence"] = "token", **loss: float
) -> PolicyGradient:
    return PolicyGradient(model, "fp32", loss=Clipped(**loss), kl_coef=kl_coef, kl_penalty=kl_penalty, temperature=1.0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("behaviour", [math.log(0.5), math.log(0.9), math.log(0.1), math.log(0.01)])
def test_the_loss_is_its_definition(behaviour: float, advantage: float) -> None:
    model = Unigram([0.0, 0.0])  # log pi = log 0.5 everywhere
    loss = objective(model, kl_coef=0.1)(batch(behaviour, math.log(0.25), advantage))
    ratio = 0.5 / math.exp(behaviour)
    surrogate = min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    if advantage < 0:
        surrogate = max(surrogate, 3.0 * advantage)  # 50 times as likely, and no more than three times as bad
    penalty = ratio * (0.25 / 0.5 - math.log(0.25 / 0.5) - 1)
    assert loss.item() == pytest.approx(0.1 * penalty - surrogate, rel=1e-5)


# Each loss of one answer in plain numpy: ratios (length,), log-probabilities (length,), an advantage.


def clipped(ratio: np.ndarray, logprobs: np.ndarray, advantage: float) -> np.ndarray:
    found = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.28) * advantage)
    return -(np.maximum(found, 3.0 * advantage) if advantage < 0 else found)


def gspo(ratio: np.ndarray, logprobs: np.ndarray, advantage: float) -> np.ndarray:
    mean = np.full_like(ratio, np.prod(ratio) ** (1 / len(ratio)))
    return -np.minimum(mean * advantage, np.clip(mean, 1 - 3e-4, 1 + 4e-4) * advantage)


def cispo(ratio: np.ndarray, logprobs: np.ndarray, advantage: float) -> np.ndarray:
    return -np.minimum(ratio, 5.0) * advantage * logprobs


LOSSES = {"clipped": (Clipped(high=0.28), clipped), "gspo": (Gspo(), gspo), "cispo": (Cispo(), cispo)}
RATIOS = [0.1, 0.5, 0.79, 0.81, 1.0, 1.0003, 1.19, 1.27, 1.3, 2.9, 3.1, 4.9, 5.1, 50.0]


@pytest.mark.parametrize("advantage", [1.5, -0.7, 0.0])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_its_formula_and_so_is_its_gradient(name: str, advantage: float) -> None:
    """In fp64, against numpy and its finite differences; an answer of every single ratio, and one of all."""
    loss, formula = LOSSES[name]
    for ratios in [*([[ratio]] for ratio in RATIOS), [RATIOS], [RATIOS[3:6]]]:
        behaviour = np.full(len(ratios[0]), -4.5)
        logprobs = behaviour + np.log(ratios[0])
        given = torch.tensor(np.append(logprobs, 7.0)[None], requires_grad=True)  # the last token was not drawn
        learn = torch.tensor([[True] * len(behaviour) + [False]])
        log_ratio = (given - torch.tensor(np.append(behaviour, 0.0)[None])).where(learn, 0)
        found, _ = loss.of(given, log_ratio, torch.tensor([[advantage]], dtype=torch.float64), learn)
        np.testing.assert_allclose(found[learn].detach(), formula(np.array(ratios[0]), logprobs, advantage), atol=1e-9)
        (gradient,) = torch.autograd.grad(found[learn].sum(), given)
        assert float(gradient[0, -1]) == 0
        for place in range(len(behaviour)):
            step = np.zeros_like(logprobs)
            step[place] = 1e-6
            held = np.exp(logprobs - behaviour) if name == "cispo" else None  # its weight is held fixed
            low, high = (
                formula(np.exp(at - behaviour) if held is None else held, at, advantage).sum()
                for at in (logprobs - step, logprobs + step)
            )
            assert float(gradient[0, place]) == pytest.approx((high - low) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_an_answer_of_no_tokens_costs_nothing_and_moves_nothing(name: str) -> None:
    """Beside one of two tokens, in fp64; the gradient of that is as if it were alone."""
    loss, formula = LOSSES[name]
    given = torch.tensor([[-4.0, -4.2], [-1.0, -9.0]], dtype=torch.float64, requires_grad=True)
    learn = torch.tensor([[True, True], [False, False]])
    advantages = torch.tensor([[1.5], [-3.0]], dtype=torch.float64)
    ratios = np.array([1.1, 0.9])
    found, _ = loss.of(given, (given - given.detach() + torch.tensor(np.log([ratios, ratios]))), advantages, learn)
    np.testing.assert_allclose(found[learn].detach(), formula(ratios, np.array([-4.0, -4.2]), 1.5), atol=1e-9)
    (gradient,) = torch.autograd.grad(found[learn].sum(), given)
    assert gradient.isfinite().all() and gradient[0].any() and not gradient[1].any()


def test_the_clip_fraction_counts_the_tokens_whose_gradient_a_bound_took() -> None:
    for loss, _ in LOSSES.values():
        for advantage, ratio in itertools.product((1.0, -1.0), RATIOS):
            logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
            learn = torch.ones(1, 1, dtype=torch.bool)
            found, taken = loss.of(logprobs, logprobs * 1.0, torch.tensor([[advantage]]), learn)
            (gradient,) = torch.autograd.grad(found.sum(), logprobs)
            if not isinstance(loss, Cispo):  # which takes none, and counts those that it weighs less
                assert bool(taken) == (float(gradient) == 0), (loss, advantage, ratio)


REWARDS = np.array([1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.5, 0.5, -3.0, 9.0, 2.0, 0.25])


def test_each_advantage_is_its_formula() -> None:
    groups = REWARDS.reshape(3, 4)
    given = torch.tensor(REWARDS)
    centred = groups - groups.mean(1, keepdims=True)
    others = np.array([[np.delete(group, i).mean() for i in range(4)] for group in groups])
    expected = {
        Group(): centred / (groups.std(1, keepdims=True) + 1e-4),
        Group(scale=False): centred,
        LeaveOneOut(): groups - others,
        NormalizedBatch(): (groups - groups.mean()) / (groups.std() + 1e-4),
        NormalizedBatch(subtract_group_mean=True): centred / (centred.std() + 1e-4),
    }
    for advantage, values in expected.items():
        np.testing.assert_allclose(advantage.of(given, 4), values.flatten(), atol=1e-9)
    assert not Group().of(torch.full((8,), 0.3), 4).any()  # all alike: nothing to learn
    assert not NormalizedBatch().of(torch.full((8,), 0.25), 1).any()


def test_answers_weigh_as_asked_for() -> None:
    """The sum of weighted token losses over all tokens is the mean over tokens, over answers, or over lengths."""
    lengths, per_token = [3, 1, 4], [2.0, 5.0, 1.0]
    done = [Completion([7] * length, [0.0] * length, True) for length in lengths]

    def mean(mean_over: str) -> float:
        spec = msgspec.structs.replace(rlhf(1), mean_over=mean_over, max_completion_tokens=8)
        weights = token_weights(spec, done).tolist()
        return sum(w * n * loss for w, n, loss in zip(weights, lengths, per_token, strict=True)) / sum(lengths)

    assert mean("tokens") == pytest.approx((3 * 2 + 5 + 4) / 8)
    assert mean("answers") == pytest.approx((2 + 5 + 1) / 3)
    assert mean("length") == pytest.approx((3 * 2 + 5 + 4) / (3 * 8))


def test_the_overlong_penalty_grows_to_one() -> None:
    found = overlong(torch.tensor([5, 60, 80, 90, 100]), 100, 20)
    assert found.tolist() == pytest.approx([0, 0, 0, -0.5, -1.0])


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_the_minibatches_of_an_epoch_have_every_group_once(per_part: int, size: int, parts: int, seed: int) -> None:
    groups = per_part * parts
    found = [minibatch((seed, 1), groups, size, part, parts) for part in range(parts)]
    assert sorted(row for rows in found for row in rows) == list(range(groups * size))
    for rows in found:
        assert all(rows[i : i + size] == list(range(rows[i], rows[i] + size)) for i in range(0, len(rows), size))
        assert all(rows[i] % size == 0 for i in range(0, len(rows), size))


def test_a_rollout_is_written_whole_and_forgotten_when_no_checkpoint_needs_it(tmp_path: Path) -> None:
    place = Location(tmp_path)
    rollouts = [
        Rollout(number, [1, 1], [Completion([3], [-0.1234567890123], True)] * 2, [1 / 3, -1 / 3], {"reward": 0.5})
        for number in range(6)
    ]
    for rollout in rollouts:
        rollout.save(place)
        assert Rollout.load(place, rollout.number) == rollout
    place.write_bytes("checkpoints/step-00000007-000/part", b"")
    forget(place, 5, 3)
    assert place.names("rollouts") == [f"{number:08d}.json" for number in (2, 3, 4, 5)]
    place.remove("checkpoints")
    forget(place, 5, 3)
    assert place.names("rollouts") == [f"{number:08d}.json" for number in (4, 5)]


class TwoSteps(nn.Module):
    """A policy of three tokens over two steps: logits of the first, and of the second by the first. Token 3 begins."""

    config = SimpleNamespace(_attn_implementation="eager")

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.head = nn.Parameter(logits.clone()), nn.Identity()  # (4, 3): by the token before

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, tokens: torch.Tensor, use_cache: bool) -> object:
        return type("Output", (), {"logits": self.head(self.logits[tokens])})()


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
            "weights": torch.ones(1),
        }
        (math.exp(float(drawn.sum())) * objective(model, 1.0, kind)(sample)).backward()
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


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kl_coef": 0.0, "max_kl": 0.5}, "max_kl"),
        ({"group_size": 1}, "group_size: group compares"),
        ({"steps": 50, "minibatches_per_rollout": 4}, "50 steps are not a multiple of the 4"),
        ({"overlong_tokens": 500}, "overlong_tokens"),
        ({"loss": {"type": "clipped", "dual": 0.5}}, "loss.dual"),
        ({"advantage": {"type": "groups"}}, "group"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        convert(fields, RlhfSpec, "rlhf")
    convert({"group_size": 1, "advantage": {"type": "normalized_batch"}}, RlhfSpec, "rlhf")


def test_a_good_answer_becomes_likelier_and_a_clipped_one_is_left() -> None:
    model = Unigram([0.0, 0.0])
    judged = objective(model)
    judged(batch(math.log(0.5), math.log(0.5), 1.0)).backward()
    assert model.logits.grad is not None and model.logits.grad[1] < 0  # down the gradient, token 1 gains
    model.logits.grad = None
    judged(batch(math.log(0.3), math.log(0.5), 1.0)).backward()  # already 1.67 times as likely
    assert float(model.logits.grad.abs().sum()) == 0


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=8), st.floats(-5, 5), st.floats(0.1, 10))
def test_a_groups_advantages_know_neither_offset_nor_scale(rewards: list[float], offset: float, scale: float) -> None:
    values = torch.tensor(rewards, dtype=torch.float64)
    found = Group().of(values, len(rewards))
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-6)
    if float(values.std()) > 0.1:
        moved = Group().of(values * scale + offset, len(rewards))
        assert torch.allclose(found, moved, atol=2e-2)


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
    assert PythonParses().of(sample) == reward


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_learned_tokens_alone_are_those_of_all(temperature: float) -> None:
    """Values and gradients, and again of the whole text afterwards; the output layer is asked for no other token."""
    model = build_model(configuration("llama-1m", {}, vocab_size=300, sequence_length=64, eos_token_id=0), seed=1)
    tokens = torch.randint(0, 300, (3, 12), generator=torch.Generator().manual_seed(0))
    learn = torch.zeros((3, 11), dtype=torch.bool)
    learn[0, 4:], learn[1, 2:9], learn[2, 10] = True, True, True
    factors = torch.linspace(-1.0, 2.0, 33).view(3, 11)
    asked: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda layer, inputs, output: asked.append(output.numel()))
    logits = model(tokens[:, :-1]).logits / temperature
    expected = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
    (expected * factors)[learn].sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    found = token_logprobs(model, tokens, temperature, learn)
    torch.testing.assert_close(found, expected.where(learn, 0), rtol=0, atol=2e-6)
    (found * factors).sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(token_logprobs(model, tokens, temperature), expected, rtol=0, atol=2e-6)
    assert asked == [3 * 11 * 300, int(learn.sum()) * 300, 3 * 11 * 300]
