"""What tells that a policy learns to please its reward and nothing else: each sign with its remedy.

Signs are taken from the lines of training metrics and from the points of the curve. A reward of weight 0 is logged and
not learned from: it is the judge that the policy cannot please on purpose (Gao et al. 2022, arXiv:2210.10760: the gold
reward falls while the proxy still rises).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cluster.core import metrics
from pipelines.specs import RlhfSpec

Line = dict[str, Any]

WINDOW = 5  # lines of which the median is taken: one bad step is no sign
LONGER = 2.0  # times as long as at the start
SHORTER = 1 / 3  # of the length at the start
FULL = 0.9  # of the room for a completion
JUDGE_FALL = 0.1  # of what the judge said at the start
ENTROPY_SHARE = 0.25  # of the entropy at the start
DISTINCT_SHARE = 0.5  # of the distinct answers at the start
REPEATED = 0.2  # of the 4-grams of an answer
FLAT = 0.8  # of the groups
CLIPPED = 0.4  # of the tokens
LIMITED = 0.5  # of the steps
GAP_NATS = 0.05  # a token
# Figures of a step that are shares: what they may be, and what a higher one tells.
SHARES = (
    (
        "zero_variance_fraction",
        FLAT,
        "nothing_to_compare",
        "in {:.0%} of the groups all answers have the same reward",
        "Take prompts that are neither too easy nor too hard, a larger group_size, or rlhf.redraws.",
    ),
    (
        "clip_fraction",
        CLIPPED,
        "steps_too_long",
        "{:.0%} of the tokens are clipped",
        "Lower the learning rate, or rlhf.epochs_per_rollout.",
    ),
    (
        "kl_limited",
        LIMITED,
        "at_the_bound",
        "in most of the last steps the KL was above rlhf.max_kl, and only the penalty was learned from",
        "Raise rlhf.kl_coef, lower the learning rate, or raise rlhf.max_kl.",
    ),
)


@dataclass(frozen=True)
class Alarm:
    """A sign: its name, the step that showed it first, what was seen, and what helps."""

    name: str
    step: int
    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}. {self.remedy}"


def alarms(spec: RlhfSpec, lines: Sequence[Line], points: Sequence[Line]) -> list[Alarm]:
    """The signs in the lines and evaluations so far, each once, at the step that showed it first."""
    found: dict[str, Alarm] = {}
    for end in range(2, len(points) + 1):
        for alarm in _of_points(spec, points[:end]):
            found.setdefault(alarm.name, alarm)
    for end in range(2 * WINDOW, len(lines) + 1):
        for alarm in _of_lines(lines[:WINDOW], lines[end - WINDOW : end]):
            found.setdefault(alarm.name, alarm)
    return sorted(found.values(), key=lambda alarm: (alarm.step, alarm.name))


def _of_points(spec: RlhfSpec, points: Sequence[Line]) -> Iterator[Alarm]:
    first, last = points[0], points[-1]
    step = int(last[metrics.STEP])
    for judge in _judges(spec, last):
        was, now = first[judge], last[judge]
        if last["heldout_reward"] > first["heldout_reward"] and was - now > JUDGE_FALL * max(abs(was), 0.1):
            yield Alarm(
                "reward_hacking",
                step,
                f"heldout_reward rose from {first['heldout_reward']:.3g} to {last['heldout_reward']:.3g}, "
                f"while {judge}, which is not learned from, fell from {was:.3g} to {now:.3g}",
                "Take an earlier checkpoint's model; raise rlhf.kl_coef, or weigh that judge.",
            )
    was, now = first["heldout_completion_tokens"], last["heldout_completion_tokens"]
    if now > LONGER * was or (now > FULL * spec.max_completion_tokens and now > 1.1 * was):
        yield Alarm(
            "length_explosion",
            step,
            f"held-out answers grew from {was:.0f} to {now:.0f} tokens of {spec.max_completion_tokens}",
            "Set rlhf.overlong_tokens, or mean_over: length; look whether the reward likes length.",
        )
    if now < SHORTER * was:
        yield Alarm(
            "length_collapse",
            step,
            f"held-out answers shrank from {was:.0f} to {now:.0f} tokens",
            "The policy ends before it says what the reward dislikes: reward length too (rlhf.rewards.length).",
        )
    was, now = first["heldout_distinct"], last["heldout_distinct"]
    if now < DISTINCT_SHARE * was:
        yield Alarm(
            "sameness",
            step,
            f"of the held-out answers {now:.0%} are distinct, {was:.0%} were",
            "The policy says the same to everybody: raise rlhf.kl_coef, or lower the learning rate.",
        )
    was, now = first.get("heldout_repetition", 0.0), last.get("heldout_repetition", 0.0)
    if now > REPEATED and now > 2 * was:
        yield Alarm(
            "repetition",
            step,
            f"{now:.0%} of the 4-grams of held-out answers came before in the same answer, {was:.0%} did",
            "Reward what ends by itself, penalize repetition, or raise rlhf.kl_coef.",
        )


def _judges(spec: RlhfSpec, point: Line) -> list[str]:
    """Held-out figures of rewards that are not learned from."""
    weights = {name: getattr(given, "weight", given) for name, given in spec.rewards.items()}
    return [f"heldout_{name}" for name, weight in weights.items() if not weight and f"heldout_{name}" in point]


def _of_lines(begun: Sequence[Line], lately: Sequence[Line]) -> Iterator[Alarm]:
    step = int(lately[-1][metrics.STEP])
    was, now = _usual(begun, "entropy"), _usual(lately, "entropy")
    if was is not None and now is not None and now < ENTROPY_SHARE * was:
        yield Alarm(
            "entropy_collapse",
            step,
            f"entropy fell from {was:.3g} to {now:.3g} nats a token",
            "Nothing is left to explore: lower the learning rate, raise rlhf.kl_coef, or set rlhf.loss.high above low.",
        )
    for field, bound, name, seen, remedy in SHARES:
        share = _usual(lately, field)
        if share is not None and share > bound:
            yield Alarm(name, step, seen.format(share), remedy)
    gaps = [line["rollout_logprob_gap"] for line in lately if not line.get("staleness_steps")]
    if gaps and median(gaps) > GAP_NATS:
        yield Alarm(
            "engine_and_learner_differ",
            step,
            f"their log-probabilities differ by {median(gaps):.3g} nats a token on the same weights",
            "Compare their precisions (rlhf.precision, scaling.gpus_per_rollout); --set "
            "scaling.verify_rollout_prompts=4 compares their tokens.",
        )


def _usual(lines: Sequence[Line], name: str) -> float | None:
    values = [float(line[name]) for line in lines if line.get(name) is not None]
    return median(values) if values else None
