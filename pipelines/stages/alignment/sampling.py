"""Drawing a rollout: prompts from the order, completions from vLLM, rewards; and, where asked for, other prompts for
those that cannot teach (DAPO's dynamic sampling). What stands for what is written to the ledger first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.environments.episodes import Episodes
from pipelines.stages.alignment.ledger import Ledger
from pipelines.stages.alignment.packing import overlong
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.named import OVERLONG
from pipelines.stages.alignment.scoring import Scorer, Summed, summed
from pipelines.stages.alignment.sync import WeightSync
from pipelines.stages.generation.engine import Completion
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batches import BatchPlan
from pipelines.stages.training.loop import mix


@dataclass
class Sampled:
    """Completions of prompts (positions in the train split), groups beside each other, with their rewards."""

    prompts: list[int]
    completions: list[Completion]
    scores: Summed
    seconds: float  # that the engines took

    def __add__(self, more: Sampled) -> Sampled:
        seconds, scores = self.seconds + more.seconds, self.scores + more.scores
        return Sampled(self.prompts + more.prompts, self.completions + more.completions, scores, seconds)


class Sampling:
    """Rollouts' completions and rewards, the same on every rank. All ranks call everything in the same order; rank 0
    has the ledger. `position` is that of the next prompt in the order: all the state there is."""

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
        self.episodes = Episodes.of(spec, scorer, self.draw) if spec.environment and rank == 0 else None

    def __call__(self, number: int) -> tuple[Sampled, Tensor, list[int]]:
        """All that is drawn for a rollout, whose groups have rewards that are all alike, and the places of those to
        learn from: in their order, as many as there are to be."""
        spec, step = self.spec, number * self.spec.steps_per_rollout
        missing, drawn = self.groups, None
        for attempt in range(spec.redraws + 1):
            positions = self.order.samples(self.position, self.position + missing).tolist()
            if self.ledger:
                names = [self.train[i].id for i in positions]
                if attempt:
                    self.ledger.redrawn(step, names)
                else:
                    self.ledger.issued(step, self.position, names, spec.steps_per_rollout)
            self.position += missing
            chosen, first = [i for i in positions for _ in range(spec.group_size)], len(drawn.prompts) if drawn else 0
            prompts, began = [self.train[i] for i in chosen], time.monotonic()
            seeds = [mix(spec.seed, number, first + i) for i in range(len(prompts))]
            completions = self.complete(prompts, seeds)
            seconds = time.monotonic() - began
            more = Sampled(chosen, completions, self.scores(prompts, completions), seconds)
            drawn = drawn + more if drawn else more
            flat = drawn.scores.flat(spec.group_size)
            missing = self.groups - int((~flat).sum())
            if missing <= 0:
                break
        assert drawn is not None
        wanted = [*(~flat).nonzero().flatten().tolist(), *flat.nonzero().flatten().tolist()][: self.groups]
        places = sorted(wanted)
        if self.ledger and len(flat) > self.groups:
            self.ledger.dropped(step, sorted(set(range(len(flat))) - set(places)))
        return drawn, flat, places

    def complete(self, prompts: list[Prompt], seeds: list[int]) -> list[Completion]:
        """A completion of each prompt, on every rank."""
        box: list[Any] = [None]
        if self.sync.fleet and self.episodes:
            box = [self.episodes(prompts, seeds, lambda: dist.broadcast_object_list([None]))]
        elif self.sync.fleet:
            box = [self.draw([prompt.tokens for prompt in prompts], seeds, self.spec.max_completion_tokens)]
        while True:  # of each turn of an answer a sign of life, so that nobody waits for more than one
            dist.broadcast_object_list(box)
            if box[0] is not None:
                completions: list[Completion] = box[0]
                return completions

    def draw(self, prompts: list[list[int]], seeds: list[int], max_tokens: int) -> list[Completion]:
        """What the engines draw; for rank 0."""
        assert self.sync.fleet
        options = {"max_tokens": max_tokens, "temperature": self.spec.temperature}
        return self.sync.fleet.generate(prompts, seeds, eos_token_id=self.eos_token_id, **options)

    def scores(self, prompts: list[Prompt], completions: list[Completion]) -> Summed:
        """The reward of each completion, in order; every rank scores its share."""
        share = -(-len(prompts) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        parts: list[Any] = [None] * self.plan.num_workers
        dist.all_gather_object(parts, self.scorer(prompts[own], completions[own]))
        also: dict[str, Tensor] = {}
        if self.spec.overlong_tokens:
            lengths = torch.tensor([len(c.logprobs) for c in completions])
            also[OVERLONG] = overlong(lengths, self.spec.max_completion_tokens, self.spec.overlong_tokens)
        return summed(self.spec, len(prompts), parts, also)
