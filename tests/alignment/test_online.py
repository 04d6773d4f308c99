"""PPO, distillation and dynamic sampling against plain numpy in fp64: advantages, a critic's loss, the KL's control."""

from __future__ import annotations

import itertools
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import JobError, SpecError
from cluster.core.specs.spec import convert, fingerprint
from cluster.core.storage.location import Location
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.advantages import Distillation, Gae, Group, LeaveOneOut
from pipelines.stages.alignment.advantages.advantage import Drawn, ValueFunction
from pipelines.stages.alignment.critic import Critic, explained_variance, value_losses
from pipelines.stages.alignment.kl_control import AdaptiveKl
from pipelines.stages.alignment.ledger import Account, Ledger, account, read
from pipelines.stages.alignment.losses import Clipped
from pipelines.stages.alignment.packing import micro_batches, padded, placed, rows_of
from pipelines.stages.alignment.policy_gradient import PolicyGradient
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.reward import scores
from pipelines.stages.alignment.shared_prompts import asked
from pipelines.stages.generation.engine import Completion
from pipelines.stages.training.optimizers.optimizers import build_optimizer
from tests.alignment.test_policy_gradient import TwoSteps, log_policy, sequence_kl
from tests.alignment.tiny_chat import rlhf

# Of RlhfSpec() with an input `model` of the fingerprint "m", as it was before there was `redraws`.
OLD = "9464fc6b991eb2ae5fa9be6a61220d6767deec78f95a07b517f9f66cc00e37a9"
LENGTHS = [4, 1, 0, 3]  # one answer has no tokens


def rollout(seed: int = 0) -> tuple[Drawn, np.ndarray, np.ndarray, np.ndarray]:
    """Four answers: rewards (4,), what tokens brought and what a critic expected (4, 4), with noise behind the ends."""
    rng = np.random.default_rng(seed)
    rewards, brought, values = rng.normal(size=4), rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    learn = np.arange(4) < np.array(LENGTHS)[:, None]
    brought = np.where(learn, brought, 0)
    given = (torch.tensor(array) for array in (learn, brought, values, rng.normal(size=(4, 4))))
    return Drawn(torch.tensor(rewards), 2, *given), rewards, brought, values


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.0), (0.97, 1.0)])
def test_gae_is_its_definition(gamma: float, lam: float) -> None:
    """The sum of discounted errors, term by term, and not the recursion; whitened over what was drawn."""
    drawn, rewards, brought, values = rollout()
    expected = np.zeros((4, 4))
    for row, length in enumerate(LENGTHS):
        r = brought[row, :length].copy()
        if length:
            r[-1] += rewards[row]
        v = np.append(values[row, :length], 0.0)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected[row, t] = sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, length))
    found = Gae(gamma=gamma, lam=lam, whiten=False).of_tokens(drawn)
    np.testing.assert_allclose(found.advantages, expected, atol=1e-9)
    assert found.returns is not None
    learn = drawn.learn.numpy()
    np.testing.assert_allclose(found.returns, np.where(learn, expected + values, 0), atol=1e-9)
    if lam == 1.0:  # then the returns do not depend on the critic
        assert float(found.returns[3, 2]) == pytest.approx(brought[3, 2] + rewards[3])
    white = Gae(gamma=gamma, lam=lam).of_tokens(drawn).advantages
    known = expected[learn]
    np.testing.assert_allclose(white[drawn.learn], (known - known.mean()) / (known.std() + 1e-4), atol=1e-9)
    assert not white[~drawn.learn].any()


def test_whole_answers_are_judged_with_what_their_tokens_brought() -> None:
    drawn, rewards, brought, _ = rollout()
    whole = torch.tensor(rewards + brought.sum(1))
    for advantage in (Group(), LeaveOneOut()):
        assert torch.equal(advantage.of_tokens(drawn).advantages, advantage.of(whole, 2))
    alone = Drawn(drawn.rewards, 2, drawn.learn)
    assert torch.equal(Group().of_tokens(alone).advantages, Group().of(drawn.rewards, 2))


@pytest.mark.parametrize("clip", [0.2, 0.0])
def test_the_critics_loss_is_its_formula_and_so_is_its_gradient(clip: float) -> None:
    for value, before, target in itertools.product((-2.0, 0.1, 0.19, 0.31, 50.0), (0.0, 0.1), (-1.0, 0.0, 0.15, 40.0)):

        def formula(at: float, before: float = before, target: float = target) -> float:
            bounded = min(max(at, before - clip), before + clip) if clip else at
            return 0.5 * max((at - target) ** 2, (bounded - target) ** 2)

        given = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        known = (torch.tensor([[number]], dtype=torch.float64) for number in (before, target))
        loss, taken = value_losses(given, *known, clip)
        assert loss.item() == pytest.approx(formula(value), abs=1e-9)
        (gradient,) = torch.autograd.grad(loss.sum(), given)
        slope = (formula(value + 1e-6) - formula(value - 1e-6)) / 2e-6
        assert gradient.item() == pytest.approx(slope, abs=1e-6)
        assert bool(taken) == (slope == 0 and value != target)


def test_explained_variance_is_one_for_a_critic_that_knows() -> None:
    returns = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    assert explained_variance(returns + 7, returns) == pytest.approx(1)  # an offset is not variance
    assert explained_variance(torch.zeros(3), returns) == pytest.approx(0)
    assert explained_variance(-returns, returns) == pytest.approx(-3)
    assert explained_variance(returns, torch.ones(3)) == 0


@given(st.lists(st.floats(0, 5), max_size=30), st.integers(1, 512))
def test_the_kl_coefficient_follows_the_kl(kls: list[float], completions: int) -> None:
    control = AdaptiveKl(start=0.05, target=0.1, horizon=1000)
    coefficient = expected = control.start
    for kl in kls:
        coefficient = control.after(coefficient, kl, completions)
        expected *= 1 + float(np.clip((kl - 0.1) / 0.1, -0.2, 0.2)) * completions / 1000
        assert coefficient == pytest.approx(expected) and coefficient > 0
    assert control.after(1.0, 0.1, completions) == 1.0


def completions_of(policy: np.ndarray) -> list[tuple[float, tuple[int, int], torch.Tensor]]:
    """Each completion of two of three tokens: its probability, its tokens, their log-probabilities (1, 2)."""
    found = []
    for first, second in itertools.product(range(3), range(3)):
        logprobs = torch.tensor([[policy[3, first], policy[first, second]]])
        found.append((math.exp(float(logprobs.sum())), (first, second), logprobs))
    return found


@pytest.mark.parametrize("what", ["distillation", "whole distillation", "reward"])
def test_advantages_of_tokens_descend_the_reverse_kl(what: str) -> None:
    """Every completion weighted by its probability, against finite differences: the teacher's KL of each token or of
    whole answers, and a KL penalty as part of the reward of PPO."""
    rng = np.random.default_rng(7)
    logits, other = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    policy, target = log_policy(logits), log_policy(other)
    advantage: Any = {
        "distillation": Distillation(),
        "whole distillation": Distillation(discount=1.0),
        "reward": Gae(lam=1.0, whiten=False),
    }[what]
    model = TwoSteps(torch.tensor(logits))
    judged = PolicyGradient(model, "fp32", loss=Clipped(), kl_coef=0.0, kl_penalty="token", temperature=1.0)
    learn = torch.ones(1, 2, dtype=torch.bool)
    for probability, (first, second), logprobs in completions_of(policy):
        theirs = torch.tensor([[target[3, first], target[first, second]]])
        gap, zeros = theirs - logprobs, torch.zeros(1, 2)
        drawn = Drawn(torch.zeros(1), 1, learn, gap if what == "reward" else None, zeros, gap)
        batch = {
            "tokens": torch.tensor([[3, first, second]]),
            "learn": learn,
            "behaviour": logprobs.float(),
            "advantages": advantage.of_tokens(drawn).advantages.float(),
            "weights": torch.ones(1),
        }
        (probability * judged(batch)).backward()
    fixed = np.exp(policy[3])

    def kl(at: np.ndarray) -> float:
        return sequence_kl(at, other, fixed if what == "distillation" else np.exp(log_policy(at)[3]))

    expected = np.zeros_like(logits)
    for place in np.ndindex(*logits.shape):
        step = np.zeros_like(logits)
        step[place] = 1e-5
        expected[place] = (kl(logits + step) - kl(logits - step)) / 2e-5
    assert model.logits.grad is not None
    np.testing.assert_allclose(model.logits.grad.numpy(), expected, atol=1e-5)


def test_figures_of_tokens_go_into_batches_and_come_out_of_them() -> None:
    prompts = [Prompt(str(n), [], [1] * length) for n, length in enumerate((3, 1, 2))]
    done = [Completion([5] * n, [-0.5 - n] * n, True) for n in (2, 4, 0)]
    for own, batch in micro_batches(prompts, done, 2):
        told = [c.logprobs for c in done[own]]
        assert torch.equal(placed(told, batch["learn"]), batch["behaviour"])
        assert rows_of(batch["behaviour"], batch["learn"]) == told
        assert batch["learn"].sum(1).tolist() == [len(row) for row in told]
    assert padded([[1.0], [], [2.0, 3.0]]).tolist() == [[1, 0], [0, 0], [2, 3]]


class Tiny(torch.nn.Module):
    """A policy with what a shared critic reads: states (batch, length, 2), and logits of them."""

    base_model_prefix = "base"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = torch.nn.Embedding(4, 2)
        self.output = torch.nn.Linear(2, 4)

    config = SimpleNamespace(_attn_implementation="eager")  # shares no prompts

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.output

    def forward(self, tokens: torch.Tensor, **_: Any) -> Any:
        hidden = self.base(tokens)
        return type("Output", (), {"logits": self.output(hidden), "hidden_states": [hidden]})()


@pytest.mark.parametrize("shared", [False, True])
def test_the_critics_loss_stands_beside_the_policys(shared: bool) -> None:
    """One backward pass: a critic of its own leaves the policy's gradient alone, a head moves its layers; each has its
    groups in the optimizer, at its rate."""
    fields = ValueFunction(start="head" if shared else "policy", rate=4.0, coef=0.5, clip=0.0)
    trunk, model = Tiny(), Tiny()
    trunk.forward = lambda tokens, **_: type("O", (), {"last_hidden_state": trunk.base(tokens)})()  # type: ignore[method-assign, assignment]
    score = torch.nn.Linear(2, 1)
    critic = Critic(fields, None if shared else trunk, score)
    options: Any = {"loss": Clipped(), "kl_coef": 0.0, "kl_penalty": "token", "temperature": 1.0}
    batch = {
        "tokens": torch.tensor([[0, 1, 2]]),
        "learn": torch.tensor([[False, True]]),
        "behaviour": torch.tensor([[0.0, -1.0]]),
        "advantages": torch.tensor([[0.0, 1.0]]),
        "weights": torch.ones(1),
        "values": torch.zeros(1, 2),
        "returns": torch.tensor([[9.0, 2.0]]),
    }
    alone = PolicyGradient(model, "fp32", **options)
    loss = alone(batch)
    loss.backward()
    gradient = model.base.weight.grad.clone()  # type: ignore[union-attr]
    model.zero_grad()
    both = PolicyGradient(model, "fp32", **options, critic=critic)
    found = both(batch)
    states = model.base if shared else trunk.base
    value = score(states(torch.tensor(1))).item()
    assert found.item() == pytest.approx(loss.item() + 0.5 * 0.5 * (value - 2) ** 2, rel=1e-5)
    sums = dict(zip(both.names, both.pop_sums().tolist(), strict=True))
    assert sums["value_loss"] == pytest.approx(0.5 * (value - 2) ** 2, rel=1e-5)
    found.backward()
    moved = model.base.weight.grad
    assert moved is not None and torch.equal(moved, gradient) != shared
    assert score.weight.grad is not None and bool(score.weight.grad.any())
    optimizer = build_optimizer(model, rlhf(1, learning_rate=1e-3), beside=both.beside())
    rates = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in critic.parameters()} == {4e-3}
    assert {rates[id(p)] for p in model.parameters()} == {1e-3}
    assert len(rates) == len(list(both.parameters()))


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=5), st.integers(0, 4))
def test_prompts_that_others_stand_for_are_accounted_for(drops: list[list[bool]], crash: int) -> None:
    """Of each rollout two prompts; each one that is dropped is followed by one that stands for it. A run that dies
    after any of them, and goes on one rollout before, leaves the same account."""

    def play(ledger: Ledger, first: int, last: int, position: int) -> int:
        for step in range(first, last):
            names = [f"p{position + i}" for i in range(2 + sum(drops[step]))]
            ledger.issued(step, position, names[:2])
            if any(drops[step]):
                ledger.redrawn(step, names[2:])
                ledger.dropped(step, [i for i in (0, 1) if drops[step][i]])
            ledger.consumed(step, [i for i in range(len(names)) if i > 1 or not drops[step][i]])
            position += len(names)
        return position

    died = min(crash, len(drops))
    again = max(0, died - 1)
    with tempfile.TemporaryDirectory() as folder:
        play(Ledger(Location(folder)), 0, died, 0)
        ledger = Ledger(Location(folder))
        ledger.resumed(again)
        end = play(ledger, again, len(drops), sum(2 + sum(pair) for pair in drops[:again]))
        found = account(read(Location(folder)))
    assert sorted([*found.consumed, *found.dropped]) == sorted(f"p{i}" for i in range(end))
    assert len(found.dropped) == sum(map(sum, drops)) and not found.skipped


def test_a_dropped_prompt_that_was_learned_from_does_not_add_up(tmp_path: Path) -> None:
    ledger = Ledger(Location(tmp_path))
    with pytest.raises(JobError, match="step 0 were redrawn without being issued"):
        account([{"event": "redrawn", "step": 0, "prompts": ["a"]}])
    ledger.issued(0, 0, ["a", "b"])
    ledger.redrawn(0, ["c"])
    ledger.dropped(0, [0])
    ledger.consumed(0, [0, 1])
    with pytest.raises(JobError, match="do not use all of their prompts alike"):
        account(ledger.events)
    ledger.resumed(0)
    ledger.issued(0, 0, ["a", "b"])
    ledger.redrawn(0, ["c"])
    ledger.dropped(0, [0])
    ledger.consumed(0, [1, 2])
    assert account(ledger.events) == Account(["b", "c"], [], ["a"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"redraws": 2, "group_size": 1, "advantage": {"type": "gae"}}, "redraws: one answer"),
        ({"advantage": {"type": "gae", "critic": {"start": "reward"}}}, "critic.start"),
        ({"advantage": {"type": "gae", "lam": 1.5}}, "advantage.lam"),
        ({"kl_coef": {"target": 0}}, "kl_coef.target"),
        ({"kl_coef": -0.1}, "kl_coef"),
        ({"rewards": {}}, "nothing to learn from"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        convert(fields, RlhfSpec, "rlhf")
    convert({"rewards": {}, "advantage": {"type": "distillation"}, "kl_coef": {"target": 0.2}}, RlhfSpec, "rlhf")


def test_a_field_that_came_later_changes_no_fingerprint() -> None:
    assert fingerprint(RlhfSpec(), {"model": "m"}) == OLD
    assert fingerprint(RlhfSpec(redraws=1), {"model": "m"}) != OLD


def test_a_critic_begins_as_what_it_is_told_to(tmp_path: Path) -> None:
    """As the reward model it says at the last token what that one says of the whole, before it has learned anything."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LlamaConfig(vocab_size=20, num_labels=1, pad_token_id=0, **sizes)
    torch.manual_seed(0)
    policy, reward = LlamaForCausalLM(config), LlamaForSequenceClassification(config)
    for name, model in (("policy", policy), ("reward", reward)):
        model.save_pretrained(tmp_path / name)
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0]])
    starts: tuple[Any, ...] = ("policy", "reward", "head")
    critics = {
        start: Critic.of(ValueFunction(start=start), policy, tmp_path / "policy", tmp_path / "reward")
        for start in starts
    }
    ends = asked(reward, torch.cat([tokens, tokens[:, :1]], 1), torch.eye(4)[[3, 2]].bool())
    found = critics["reward"](ends)
    expected = scores(reward, tokens, torch.tensor([4, 3]))
    torch.testing.assert_close(found, expected)
    assert not critics["policy"](ends).any()
    assert critics["policy"].trunk is not None and critics["head"].trunk is None
    judged = PolicyGradient(
        policy, "fp32", loss=Clipped(), kl_coef=0.0, kl_penalty="token", temperature=1.0, critic=critics["head"]
    )
    torch.nn.init.ones_(critics["head"].score.weight)
    batch = {"tokens": tokens, "learn": torch.ones(2, 3, dtype=torch.bool), "behaviour": torch.zeros(2, 3)}
    # What it says at the rollout is what it says when it learns.
    values = judged({"tokens": tokens, "valued": batch["learn"]}).detach()
    batch |= {"advantages": torch.zeros(2), "weights": torch.ones(2), "values": values, "returns": values}
    assert values.any() and judged(batch).item() == pytest.approx(0, abs=1e-9)
