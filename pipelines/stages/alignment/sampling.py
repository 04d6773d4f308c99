"""Drawing a rollout: prompts from the order, completions from vLLM, rewards; and, where asked for, other prompts for
those that cannot teach (DAPO's dynamic sampling). What stands for what is written to the ledger first.

A rollout can be begun before it is asked for: then its completions are drawn meanwhile. One that nobody has asked for
when a run dies is drawn again, from the same prompts and seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import nullcontext
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.core import metrics
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.environments.episodes import Episodes
from pipelines.stages.alignment.ledger import Ledger
from pipelines.stages.alignment.packing import overlong
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.named import OVERLONG
from pipelines.stages.alignment.scoring import Scorer, Summed, summed
from pipelines.stages.alignment.sync import WeightSync
from pipelines.stages.generation.background import begin
from pipelines.stages.generation.engine import Completion
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batches import BatchPlan
from pipelines.stages.training.loop import mix

T = TypeVar("T")

SIGN_OF_LIFE_SECONDS = 30.0  # by rank 0, to those who wait for what it waits for


@dataclass(frozen=True)
class Begun:
    """A rollout whose prompts (positions in the train split, one for each completion) were given out: where these begin
    in the order; for rank 0, its completions, and the seconds that they took, once they are drawn."""

    position: int
    prompts: list[int]
    drawn: Future[tuple[list[Completion], float]] | None


@dataclass
class Sampled:
    """Completions of prompts (positions in the train split), groups beside each other, with their rewards."""

    prompts: list[int]
    completions: list[Completion]
    scores: Summed
    seconds: float  # that the engines took
    waited_seconds: float  # that the learner waited for them
    scoring_seconds: float  # that their rewards took

    def __add__(self, more: Sampled) -> Sampled:
        prompts, completions = self.prompts + more.prompts, self.completions + more.completions
        seconds, waited = self.seconds + more.seconds, self.waited_seconds + more.waited_seconds
        scoring = self.scoring_seconds + more.scoring_seconds
        return Sampled(prompts, completions, self.scores + more.scores, seconds, waited, scoring)

    def figures(self, spec: RlhfSpec) -> dict[str, Any]:
        """What there is to tell of them."""
        count = len(self.completions)
        return {
            metrics.REWARD: round(self.scores.mean, 6),
            **{f"reward_{name}": round(mean, 6) for name, mean in self.scores.means().items()},
            "completion_tokens": round(sum(len(c.logprobs) for c in self.completions) / count, 2),
            **({"turns": round(sum(len(c.turns()) for c in self.completions) / count, 4)} if spec.environment else {}),
            "finished_fraction": round(sum(c.finished for c in self.completions) / count, 4),
            "rollout_seconds": round(self.seconds, 3),
            "scoring_seconds": round(self.scoring_seconds, 3),
            **({"rollout_wait_seconds": round(self.waited_seconds, 3)} if spec.max_staleness else {}),
        }


def ages(step: int, completions: list[Completion]) -> dict[str, float]:
    """How many steps the weights of a step are ahead of those that drew its tokens: of the oldest, and their mean."""
    found = [step - version for completion in completions for version in completion.versions]
    return {"staleness_steps": max(found), "mean_staleness_steps": round(sum(found) / len(found), 3)}


class Sampling:
    """Rollouts' completions and rewards, the same on every rank. All ranks call everything in the same order; rank 0
    has the ledger. `position` is that of the next prompt in the order, and `next_position` all the state there is."""

    def __init__(
        self,
        spec: RlhfSpec,
        plan: BatchPlan,
        rank: int,
        train: list[Prompt],
        sync: WeightSync,
        scorer: Scorer,
        ledger: Ledger | None,
        eos_token_id: int,
    ) -> None:
        self.spec, self.plan, self.rank, self.train = spec, plan, rank, train
        self.sync, self.scorer, self.ledger, self.eos_token_id = sync, scorer, ledger, eos_token_id
        self.order = Order(len(train), spec.seed)
        self.groups = spec.global_batch_size // spec.group_size * spec.minibatches_per_rollout  # of a rollout
        self.position = 0
        self.begun: dict[int, Begun] = {}  # and not asked for yet, by number
        self._playing = Lock()
        self.episodes = Episodes.of(spec, scorer, self.draw) if spec.environment and rank == 0 else None

    def begin(self, number: int) -> None:
        """Have a rollout drawn from now on."""
        position, chosen = self.position, self._give_out(number, self.groups)
        drawn = self._begun([self.train[i] for i in chosen], self._seeds(number, len(chosen)))
        self.begun[number] = Begun(position, chosen, drawn)

    def next_position(self) -> int:
        """Of the first prompt that no rollout was asked for with."""
        return min([begun.position for begun in self.begun.values()], default=self.position)

    def __call__(self, number: int) -> tuple[Sampled, Tensor, list[int]]:
        """All that is drawn for a rollout, whose groups have rewards that are all alike, and the places of those to
        learn from: in their order, as many as there are to be."""
        spec, missing, drawn = self.spec, self.groups, None
        for attempt in range(spec.redraws + 1):
            began = time.monotonic()
            if begun := self.begun.pop(number, None):
                chosen = begun.prompts
                completions, seconds = self._awaited(begun.drawn)
            else:
                chosen = self._give_out(number, missing, again=attempt > 0)
                seeds = self._seeds(number, len(chosen), len(drawn.prompts) if drawn else 0)
                completions, seconds = self.complete([self.train[i] for i in chosen], seeds)
            drew = time.monotonic()
            scores = self.scores([self.train[i] for i in chosen], completions)
            more = Sampled(chosen, completions, scores, seconds, drew - began, time.monotonic() - drew)
            drawn = drawn + more if drawn else more
            flat = drawn.scores.flat(spec.group_size)
            missing = self.groups - int((~flat).sum())
            if missing <= 0:
                break
        assert drawn is not None
        wanted = [*(~flat).nonzero().flatten().tolist(), *flat.nonzero().flatten().tolist()][: self.groups]
        places = sorted(wanted)
        if self.ledger and len(flat) > self.groups:
            step = number * spec.steps_per_rollout
            self.ledger.dropped(step, sorted(set(range(len(flat))) - set(places)))
        return drawn, flat, places

    def _give_out(self, number: int, groups: int, again: bool = False) -> list[int]:
        """The next prompts of the order, one for each completion, written to the ledger."""
        spec, step = self.spec, number * self.spec.steps_per_rollout
        positions = self.order.samples(self.position, self.position + groups).tolist()
        if self.ledger:
            names = [self.train[i].id for i in positions]
            if again:
                self.ledger.redrawn(step, names)
            else:
                self.ledger.issued(step, self.position, names, spec.steps_per_rollout)
        self.position += groups
        return [i for i in positions for _ in range(spec.group_size)]

    def _seeds(self, number: int, count: int, first: int = 0) -> list[int]:
        return [mix(self.spec.seed, number, first + i) for i in range(count)]

    def complete(self, prompts: list[Prompt], seeds: list[int]) -> tuple[list[Completion], float]:
        """A completion of each prompt, on every rank, and the seconds that they took."""
        if self.spec.max_staleness:  # others may be drawn at the same time
            return self._awaited(self._begun(prompts, seeds))
        drawn, began = None, time.monotonic()
        if self.sync.fleet:  # of each turn of an answer a sign of life, so that nobody waits for more than one
            drawn = self._played(prompts, seeds, lambda: dist.broadcast_object_list([None]))
        return self._shared(drawn), time.monotonic() - began

    def _begun(self, prompts: list[Prompt], seeds: list[int]) -> Future[tuple[list[Completion], float]] | None:
        """What rank 0 has drawn from now on, by a thread of its own; None on the others."""
        if not self.sync.fleet:
            return None

        def work() -> tuple[list[Completion], float]:
            began = time.monotonic()
            with self._playing if self.episodes else nullcontext():  # an environment plays one rollout at a time
                return self._played(prompts, seeds, lambda: None), time.monotonic() - began

        return begin(work)

    def _awaited(self, drawn: Future[T] | None) -> T:
        """What rank 0 has had drawn, on every rank."""
        while drawn is not None and not wait([drawn], SIGN_OF_LIFE_SECONDS).done:
            dist.broadcast_object_list([None])
        return self._shared(drawn.result() if drawn is not None else None)

    def _shared(self, drawn: T | None) -> T:
        """What rank 0 has, on every rank. The others wait, also for more than one sign of life."""
        while True:
            box: list[Any] = [drawn]
            dist.broadcast_object_list(box)
            if box[0] is not None:
                shared: T = box[0]
                return shared

    def _played(self, prompts: list[Prompt], seeds: list[int], tick: Callable[[], Any]) -> list[Completion]:
        if self.episodes:
            return self.episodes(prompts, seeds, tick)
        return self.draw([prompt.tokens for prompt in prompts], seeds, self.spec.max_completion_tokens)

    def draw(self, prompts: list[list[int]], seeds: list[int], max_tokens: int) -> list[Completion]:
        """What the engines draw; for rank 0."""
        assert self.sync.fleet
        options = {"max_tokens": max_tokens, "temperature": self.spec.temperature}
        return self.sync.fleet.generate(prompts, seeds, eos_token_id=self.eos_token_id, **options)

    def scores(self, prompts: list[Prompt], completions: list[Completion], heldout: bool = False) -> Summed:
        """The reward of each completion, in order; every rank scores its share."""
        share = -(-len(prompts) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        parts: list[Any] = [None] * self.plan.num_workers
        dist.all_gather_object(parts, self.scorer(prompts[own], completions[own], heldout))
        also: dict[str, Tensor] = {}
        if self.spec.overlong_tokens:
            lengths = torch.tensor([len(c.logprobs) for c in completions])
            also[OVERLONG] = overlong(lengths, self.spec.max_completion_tokens, self.spec.overlong_tokens)
        return summed(self.spec, len(prompts), parts, also)
