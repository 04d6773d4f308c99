"""All rewards of a spec at once: those in processes of their own, judges, and the reward model; and what becomes of a
sample that one of them fails on."""

from __future__ import annotations

import bisect
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cluster.core.context import Context
from cluster.core.errors import InputError, JobError
from cluster.core.storage.lines import LineFile
from cluster.core.storage.location import Location
from pipelines.specs import RlhfSpec, ScalingSpec
from pipelines.stages.alignment.judging import Judging
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.asked import AskedReward
from pipelines.stages.alignment.rewards.named import REWARD_MODEL, named, weights
from pipelines.stages.alignment.rewards.pool import Failed, Pool, Scored, Steps, broken
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.generation.asking import Asker, Request
from pipelines.stages.generation.engine import Completion

FAILURES_FILE = "reward_failures.jsonl"
JUDGED = "judged"  # folder of what judges said, by training worker and reward
UNFINISHED = "\ufffd"  # what bytes are shown as that make no character yet
ABSENT = math.nan  # of a sample that is left out


@dataclass
class Scores:
    """The unweighted reward of each completion by name, ABSENT where it is left out; a line of what failed; of each
    completion the weighted rewards of its steps, by the drawn token that each ends with."""

    by_name: dict[str, list[float]]
    failures: list[dict[str, Any]] = field(default_factory=list)
    steps: list[Steps] = field(default_factory=list)


class Scorer:
    """Scores completions of conversations by every reward of a spec, those of the spec's within the time that `scaling`
    gives them. `place` is where what judges say is kept, by one process; `files` are what an environment reads."""

    def __init__(
        self,
        spec: RlhfSpec,
        tokenizer: Any,
        model: RewardModel | None,
        scaling: ScalingSpec,
        place: Location,
        files: Mapping[str, Path] | None = None,
        judge: Judging | None = None,
    ) -> None:
        self.rewards = named(spec.rewards)
        self.tokenizer = tokenizer
        self.model, self.judge = model, judge
        self.files = dict(files or {})
        self.scaling, self.timeout_seconds = scaling, scaling.reward_timeout_seconds
        self.judges = {name: reward for name, reward in self.rewards.items() if isinstance(reward, AskedReward)}
        self.model_judges = spec.model_judges
        self.askers = {
            name: Asker(Context(spec, {}, place / name, scaling, name, ""), judge.endpoint, spec.seed)
            for name, judge in self.judges.items()
        }
        judges = {**self.judges, **self.model_judges}
        called = {name: reward for name, reward in self.rewards.items() if name not in judges}
        self.pool = Pool(called, spec.seed, scaling.reward_processes, scaling.reward_memory_bytes)

    @property
    def may_fail(self) -> bool:
        """Whether a run goes on where some reward fails on a sample."""
        return any(reward.on_failure != "fail" for reward in self.rewards.values())

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Completion], heldout: bool = False) -> Scores:
        """What completions are worth, by the rewards that only watch, too, where the prompts are held out.

        Raises InputError where a reward fails whose samples are not to be left out or scored, which names it and the
        sample.
        """
        samples = [
            Sample.of(self.tokenizer, prompt.messages, completion, prompt.reference, prompt.fields)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        end = time.monotonic() + self.timeout_seconds
        scored: dict[str, list[Scored]] = dict(self.pool.score(samples, self.timeout_seconds))
        asked = [name for name, reward in self.rewards.items() if heldout or not reward.watches]
        for name in self.model_judges.keys() & asked:
            assert self.judge
            scored[name] = self.judge.marks(self.model_judges[name], samples)
        for name in self.judges.keys() & asked:
            scored[name] = self._judged(name, [prompt.id for prompt in prompts], samples, end - time.monotonic())
        found = Scores({}, steps=[[] for _ in samples])
        for name in asked:
            reward = self.rewards[name]
            for row, (value, completion) in enumerate(zip(scored[name], completions, strict=True)):
                if isinstance(value, list):
                    tokens = last_tokens(self.tokenizer, completion, [end for end, _ in value])
                    worth = [reward.weight * each for _, each in value]
                    found.steps[row] += zip(tokens, worth, strict=True)
                    scored[name][row] = math.fsum(each for _, each in value)
        for name in asked:
            found.by_name[name] = [
                self._number(name, value, prompt, sample, found.failures)
                for value, prompt, sample in zip(scored[name], prompts, samples, strict=True)
            ]
        if self.model is not None:
            values = torch.tensor(self.model.score_samples(samples)).sigmoid().tolist()
            for value, sample in zip(values, samples, strict=True):
                if not math.isfinite(value):
                    raise InputError(f"rlhf.rewards: {REWARD_MODEL} gave {value} to {sample.told}", "Train it again.")
            found.by_name[REWARD_MODEL] = values
        return found

    def _judged(self, name: str, ids: list[str], samples: list[Sample], timeout_seconds: float) -> list[Scored]:
        judge = self.judges[name]
        found: list[Scored] = []
        questions = [judge.questions(sample) for sample in samples]
        requests = [
            Request(f"{id}/{row}" + (f"/{number}" if number else ""), [{"role": "user", "content": text}])
            for row, (id, texts) in enumerate(zip(ids, questions, strict=True))
            for number, text in enumerate(texts)
        ]
        try:
            answers = self.askers[name].ask(requests, progress=False, timeout_seconds=max(0.0, timeout_seconds))
        except TimeoutError:
            raise JobError(
                f"rlhf.rewards: {name} did not judge {len(samples)} answers within {self.timeout_seconds:g} s",
                "What it said is kept: run the same command again, with a higher scaling.reward_timeout_seconds or "
                "scaling.endpoint_requests.",
            ) from None
        told = iter(answers)
        for texts in questions:
            try:
                found.append(judge.read(list(itertools.islice(told, len(texts)))))
            except ValueError as error:
                found.append(Failed(f"failed: {error}"))
        return found

    def _number(
        self, name: str, value: Scored, prompt: Prompt, sample: Sample, failures: list[dict[str, Any]]
    ) -> float:
        """A reward, or what stands for it where it failed."""
        if not isinstance(value, Failed):
            assert isinstance(value, float | int)
            return value
        reward = self.rewards[name]
        if reward.on_failure == "fail":
            raise broken(name, value.why, sample)
        failures.append(
            {
                "reward": name,
                "prompt": prompt.id,
                "answer": sample.answer,
                "why": value.why,
                "became": "skipped" if reward.on_failure == "skip" else reward.failure_score,
            }
        )
        return reward.failure_score if reward.on_failure == "score" else ABSENT


class Failures:
    """The samples that rewards failed on, as lines of reward_failures.jsonl, each with the step that it was drawn for;
    `heldout` where that was an evaluation. One process of a run writes it."""

    def __init__(self, place: Location, step: int) -> None:
        """Go on at a step: what is drawn again now is dropped."""

        def keep(line: dict[str, Any]) -> bool:
            return bool(step > 0 and (line["step"] < step or (line["heldout"] and line["step"] == step)))

        self._file = LineFile(place, FAILURES_FILE, keep)

    def add(self, step: int, heldout: bool, failures: Sequence[dict[str, Any]]) -> None:
        for line in failures:
            self._file.append({"step": step, "heldout": heldout, **line})
        self._file.flush()


@dataclass(frozen=True)
class Summed:
    """Rewards of completions: `total` (n,) is the weighted sum, 0 for those that are left out; `present` (n,) says
    which are not; `by_name` the parts, each (n,), ABSENT where there is none; `steps` are of each completion what of
    `total` belongs to single tokens, by their places among the drawn ones."""

    total: Tensor
    present: Tensor
    by_name: dict[str, Tensor]
    failures: list[dict[str, Any]]
    steps: list[Steps] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        """The mean of each part over the samples that have it."""
        return {name: float(values[~values.isnan()].mean()) for name, values in self.by_name.items()}

    @property
    def mean(self) -> float:
        """The mean of the sums of the samples that count."""
        return float((self.total if bool(self.present.all()) else self.total[self.present]).mean())

    @property
    def deviation(self) -> float:
        """The standard deviation of these sums, by which a gain of the mean can be judged."""
        return float(self.total[self.present].std(correction=0))

    def flat(self, group_size: int) -> Tensor:
        """Of each group whether its samples that count are all worth the same."""
        groups, present = self.total.view(-1, group_size), self.present.view(-1, group_size)
        best, worst = groups.where(present, -math.inf).amax(1), groups.where(present, math.inf).amin(1)
        return best <= worst

    def __add__(self, more: Summed) -> Summed:
        by_name = {name: torch.cat([values, more.by_name[name]]) for name, values in self.by_name.items()}
        total, present = torch.cat([self.total, more.total]), torch.cat([self.present, more.present])
        return Summed(total, present, by_name, self.failures + more.failures, self.steps + more.steps)


def summed(spec: RlhfSpec, count: int, parts: Sequence[Scores], also: Mapping[str, Tensor]) -> Summed:
    """The rewards of `count` completions whose scores came from several ranks, in order, and what there is `also` to
    add, each (n,). What weighs nothing is told and has no part in the sum, its failures neither. Raises JobError where
    a reward failed on them all, or one or another on each."""
    names = [name for name in spec.rewards if name in parts[0].by_name]  # some were asked for held-out answers alone
    by_name = {name: torch.tensor([x for part in parts for x in part.by_name[name]]) for name in names}
    weighted = [weight * by_name[name] for name, weight in weights(spec.rewards).items() if weight]
    total = torch.stack(weighted).sum(0) if weighted else torch.zeros(count)
    for values in also.values():
        total = total + values
    present = ~total.isnan()
    failures = [line for part in parts for line in part.failures]
    lost = [name for name, values in by_name.items() if values.isnan().all()]
    if lost or not present.any():
        first = next(line for line in failures if not lost or line["reward"] == lost[0])
        raise JobError(
            f"rlhf.rewards: {first['reward']} failed on a sample of every completion of a batch, the first: "
            f"{first['why']}",
            "Mend it.",
        )
    steps = [row for part in parts for row in part.steps]
    return Summed(total.nan_to_num(0.0), present, {**by_name, **also}, failures, steps)


def last_tokens(tokenizer: Any, completion: Completion, ends: Sequence[int]) -> list[int]:
    """Of places in the text of an answer the drawn tokens that reach them, by their places among all that were drawn.
    The answer's end is its last token, which may have no text."""
    *before, last = completion.turns()
    first, counts = sum(map(len, before)), range(len(last) + 1)

    def reached(count: int) -> int:
        text = tokenizer.decode(last[:count], skip_special_tokens=True)
        return len(text.rstrip(UNFINISHED))

    whole = reached(len(last))
    found = [len(last) if end >= whole else bisect.bisect_left(counts, end, key=reached) for end in ends]
    return [first + count - 1 for count in found]
