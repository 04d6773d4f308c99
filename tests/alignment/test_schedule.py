"""The schedule of rollouts that are drawn ahead, by a simulation of engines, learner and deaths; the correction."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from random import Random
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
from pipelines.stages.alignment.correction import Correction
from pipelines.stages.alignment.ledger import Ledger, account, read
from pipelines.stages.alignment.losses import Clipped
from pipelines.stages.alignment.policy_gradient import PROXIMAL, PolicyGradient
from pipelines.stages.alignment.schedule import Schedule
from tests.alignment.test_online import OLD
from tests.alignment.test_policy_gradient import Unigram

GROUPS = 2  # prompts of a rollout


@dataclass
class World:
    """A run of rollouts on a clock of its own: each is drawn token by token, each token by the weights of its time."""

    rollouts: int
    steps_per_rollout: int
    max_staleness: int
    rng: Random
    ledger: Ledger
    draw_seconds: float
    step_seconds: float
    now: float = 0.0
    oldest: int = 0  # age of any token that was learned from, in steps

    def run(self, step: int, dies_after_seconds: float) -> int:
        """Go on at a step until the end, or to death. Returns the step of the newest checkpoint, one a step."""
        begun = -(-step // self.steps_per_rollout)
        schedule = Schedule(self.rollouts, self.steps_per_rollout, self.max_staleness, begun)
        position, end = begun * GROUPS, self.now + dies_after_seconds
        self.ledger.resumed(step)
        tokens: dict[int, list[float]] = {}  # number -> when each of its tokens is drawn
        synced: list[tuple[float, int]] = [(-1.0, 0)]  # when the engines got which version
        while step < self.rollouts * self.steps_per_rollout:
            number, update = divmod(step, self.steps_per_rollout)
            if update == 0:
                synced.append((self.now, step))
                for ahead in schedule.due(step):
                    first = ahead * self.steps_per_rollout
                    self.ledger.issued(first, position, names(position), self.steps_per_rollout)
                    position += GROUPS
                    took = self.draw_seconds * self.rng.uniform(0.2, 3)
                    tokens[ahead] = [self.now + took * share for share in (0.1, 0.4, 0.7, 1.0)]
                drawn = tokens.pop(number)
                self.now = max(self.now, drawn[-1])
                if self.now > end:
                    return step
                versions = [max(s for s in synced if s[0] < at)[1] for at in drawn]
                self.oldest = max(self.oldest, schedule.take(number, versions))
            self.now += self.step_seconds * self.rng.uniform(0.2, 3)
            if self.now > end:
                return step
            self.ledger.consumed(step, list(range(GROUPS)))
            step += 1
        assert not schedule.pending and not tokens
        return step


def names(position: int) -> list[str]:
    return [f"prompt-{position + i}" for i in range(GROUPS)]


@given(
    rollouts=st.integers(1, 12),
    steps=st.integers(1, 3),
    max_staleness=st.integers(0, 4),
    draw_seconds=st.floats(0.1, 10),
    deaths=st.lists(st.floats(0, 30), max_size=4),
    seed=st.integers(0, 999),
)
def test_nothing_is_lost_used_twice_or_too_old_whatever_dies_when(
    rollouts: int, steps: int, max_staleness: int, draw_seconds: float, deaths: list[float], seed: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Location(folder)
        world = World(rollouts, steps, max_staleness, Random(seed), Ledger(place), draw_seconds, 1.0)
        step = 0
        for death in [*deaths, 1e9]:
            saved = max(0, step - world.rng.randrange(3))  # a checkpoint may be some steps old
            step = world.run(saved, death)
        found = account(read(place))
    assert step == rollouts * steps
    assert found.consumed == [f"prompt-{i}" for i in range(rollouts * GROUPS)] and not found.skipped
    assert world.oldest <= max_staleness * steps


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
def test_drawing_and_learning_go_on_at_the_same_time(max_staleness: int) -> None:
    """Where both take as long, one rollout ahead takes little more than half of the time."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(200, 1, max_staleness, Random(0), Ledger(Location(folder)), 1.0, 1.0)
        world.run(0, 1e9)
    turns = 200 * 2 * 1.6  # of a uniform number from 0.2 to 3, the mean
    assert world.oldest == max_staleness
    if max_staleness == 0:
        assert world.now == pytest.approx(turns, rel=0.1)
    else:
        assert world.now < turns / (1.3 if max_staleness == 1 else 1.5)


def test_what_breaks_the_bound_is_refused() -> None:
    schedule = Schedule(8, 2, 1)
    assert schedule.due(0) == range(2) and not schedule.due(0)
    with pytest.raises(JobError, match="rollout 1 is to be learned from"):
        schedule.take(1, [0])
    assert schedule.take(0, [0, 0]) == 0
    assert schedule.due(2) == range(2, 3)
    assert schedule.take(1, [0, 2]) == 2
    with pytest.raises(JobError, match=r"weights that are 3 to 4 steps old, and rlhf.max_staleness allows 2"):
        schedule.take(2, [0, 1])
    with pytest.raises(JobError, match="-1 to 2 steps old"):
        schedule.take(2, [2, 5])
    with pytest.raises(JobError, match="rollout 3 is to be"):
        schedule.take(3, [4])
    ahead = Schedule(8, 2, 1, first=5)
    assert ahead.due(10) == range(5, 7) and ahead.take(5, [10]) == 0 and ahead.due(12) == range(7, 8)


RATIOS = np.array([0.01, 0.4, 0.6, 1.0, 1.9, 2.1, 50.0])


@pytest.mark.parametrize("over", ["token", "sequence"])
@pytest.mark.parametrize("kind", ["truncated", "masked"])
def test_the_correction_is_its_formula(kind: Any, over: Any) -> None:
    learn = torch.tensor([[True] * 7 + [False], [True, False] * 4])
    log_ratio = torch.tensor([[*np.log(RATIOS), 9.0], [0.3, 99.0, -0.1, 99.0, 0.2, 99.0, 0.1, 99.0]])
    found, bounded = Correction(kind=kind, over=over, bound=2.0).of(log_ratio, learn)
    for row in range(2):
        drawn = learn[row].numpy()
        ratio = np.exp(log_ratio[row].numpy()[drawn])
        weight = np.full_like(ratio, np.prod(ratio)) if over == "sequence" else ratio
        beyond = (weight > 2) | ((weight < 0.5) & (kind == "masked"))
        expected = np.minimum(weight, 2) if kind == "truncated" else np.where(beyond, 0, weight)
        np.testing.assert_allclose(found[row, learn[row]], expected, rtol=1e-5)
        assert bounded[row, learn[row]].tolist() == beyond.tolist()
    far, _ = Correction(over="sequence").of(torch.full((1, 9), 99.0), torch.ones(1, 9, dtype=torch.bool))
    assert torch.isfinite(far).all()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_corrected_loss_is_its_formula(first: bool, advantage: float) -> None:
    """log pi is log 0.5. At the first step of a rollout the policy is the proximal one itself."""
    model = Unigram([0.0, 0.0])
    behaviour, proximal = np.log(0.3), np.log(0.5 if first else 0.45)
    batch = {
        "tokens": torch.tensor([[0, 1, 1]]),
        "learn": torch.tensor([[False, True]]),
        "behaviour": torch.tensor([[0.0, behaviour]]),
        "advantages": torch.tensor([advantage]),
        "weights": torch.ones(1),
    } | ({} if first else {PROXIMAL: torch.tensor([[0.0, proximal]])})
    options: Any = {"loss": Clipped(), "kl_coef": 0.0, "kl_penalty": "token", "temperature": 1.0}
    judged = PolicyGradient(model, "fp32", **options, correction=Correction(bound=1.6))
    loss = judged(batch)
    weight, ratio = min(np.exp(proximal - behaviour), 1.6), 0.5 / np.exp(proximal)
    surrogate = min(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    assert loss.item() == pytest.approx(-weight * surrogate, rel=1e-5)
    loss.backward()  # d log pi(1) / d logit(1) is 0.5, and the weight is held fixed
    assert model.logits.grad is not None
    assert model.logits.grad[1].item() == pytest.approx(-0.5 * weight * ratio * advantage, rel=1e-5)
    figures = dict(zip(judged.names, judged.pop_sums().tolist(), strict=True))
    assert figures["rollout_logprob_gap"] == pytest.approx(np.log(0.5) - behaviour, rel=1e-5)
    assert figures["correction_weight"] == pytest.approx(weight, rel=1e-5)
    assert figures["correction_bounded_fraction"] == (1.0 if first else 0.0)
    looked = judged({name: batch[name] for name in ("tokens", "learn")})
    assert looked.tolist() == [pytest.approx([0.0, np.log(0.5)])]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_staleness": -1}, "max_staleness"),
        ({"max_staleness": 1, "redraws": 1}, "rlhf.max_staleness: what rlhf.redraws draws"),
        ({"correction": {"bound": 1.0}}, "correction.bound"),
        ({"correction": {"kind": "clipped"}}, "correction.kind"),
        ({"correction": {"over": "tokens"}}, "correction.over"),
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        convert(fields, RlhfSpec, "rlhf")


def test_what_came_later_is_part_of_the_fingerprint_where_it_is_used() -> None:
    found = [fingerprint(RlhfSpec(**changes), {"model": "m"}) for changes in ({}, {"max_staleness": 1})]
    found.append(fingerprint(RlhfSpec(correction=Correction()), {"model": "m"}))
    assert found[0] == OLD and len(set(found)) == 3
