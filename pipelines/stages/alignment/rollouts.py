"""The batches of RLHF: prompts from the order, completions from vLLM, rewards, advantages.

A step's batch is a function of the weights before it, the step and the seed: after a crash the same prompts get the
same completions again. Rank 0 talks to the engines and keeps the ledger; every rank scores and learns its own share.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.core import metrics
from cluster.core.storage.location import Location
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.advantages import group_advantages
from pipelines.stages.alignment.curve import Curve
from pipelines.stages.alignment.grpo import k3, token_logprobs
from pipelines.stages.alignment.ledger import Ledger
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.scoring import Scorer
from pipelines.stages.alignment.sync import WeightSync
from pipelines.stages.generation.engine import Completion
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batches import BatchPlan, Share
from pipelines.stages.training.engine.engine import Engine
from pipelines.stages.training.loop import mix
from pipelines.stages.training.sources import Source


class RolloutBatches(Source):
    """Completions of the policy's own, `group_size` for each prompt."""

    def __init__(
        self,
        spec: RlhfSpec,
        plan: BatchPlan,
        rank: int,
        train: list[Prompt],
        heldout: list[Prompt],
        sync: WeightSync,
        scorer: Scorer,
        reference: Any | None,
        output: Location,
        eos_token_id: int,
    ) -> None:
        self.spec, self.plan, self.rank = spec, plan, rank
        self.train, self.heldout = train, heldout[: spec.evaluation_prompts]
        self.order = Order(len(train), spec.seed)
        self.sync, self.scorer, self.reference = sync, scorer, reference
        self.eos_token_id = eos_token_id
        self.ledger = Ledger(output) if rank == 0 else None
        self.curve = Curve(output) if rank == 0 else None
        self._figures: dict[str, Any] = {}

    def restart(self, step: int) -> None:
        if self.ledger and self.curve:
            self.ledger.resumed(step)
            self.curve.cut(step)

    def taken(self, step: int) -> None:
        if self.ledger:
            self.ledger.consumed(step)

    def skipped(self, step: int, reason: str) -> None:
        if self.ledger:
            self.ledger.skipped(step, reason)

    def figures(self) -> dict[str, Any]:
        return self._figures

    def share(self, step: int, engine: Engine) -> Share:
        self.sync(step, engine)
        if step == 0:
            self._evaluate(engine, 0)
        began = time.monotonic()
        count = self.spec.global_batch_size // self.spec.group_size
        positions = self.order.samples(step * count, (step + 1) * count).tolist()
        if self.ledger:
            self.ledger.issued(step, step * count, [self.train[i].id for i in positions])
        prompts = [self.train[i] for i in positions for _ in range(self.spec.group_size)]
        completions = self._complete(prompts, [mix(self.spec.seed, step, i) for i in range(len(prompts))])
        seconds = time.monotonic() - began
        rewards, by_name = self._scores(prompts, completions)
        advantages = group_advantages(rewards, self.spec.group_size)
        first, last = self.plan.positions(0, self.rank)
        batches = self._batches(engine, prompts[first:last], completions[first:last], advantages[first:last])
        tokens = sum(len(c.tokens) for c in completions)
        kl = self._kl(batches, tokens)
        limited = bool(self.spec.max_kl and kl is not None and kl > self.spec.max_kl)
        if limited:
            for batch in batches:
                batch["advantages"].zero_()  # this step only pulls the policy back
        self._figures = {
            metrics.REWARD: round(float(rewards.mean()), 6),
            **{f"reward_{name}": round(float(values.mean()), 6) for name, values in by_name.items()},
            **({} if kl is None else {metrics.KL: round(kl, 6), "kl_limited": limited}),
            "completion_tokens": round(tokens / len(completions), 2),
            "finished_fraction": round(sum(c.finished for c in completions) / len(completions), 4),
            "rollout_seconds": round(seconds, 3),
        }
        if self.sync.verified:
            self._figures["verified_syncs"] = self.sync.verified
        return Share(list(batches), tokens, tokens + sum(len(p.tokens) for p in prompts))

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        self.sync(step, engine)
        return self._evaluate(engine, step)

    def _evaluate(self, engine: Engine, step: int) -> dict[str, Any]:
        """One completion of every held-out prompt: rewards and KL. The seeds are those of every other evaluation."""
        seeds = [mix(self.spec.seed, 1 << 40, i) for i in range(len(self.heldout))]
        completions = self._complete(self.heldout, seeds)
        rewards, by_name = self._scores(self.heldout, completions)
        share = -(-len(completions) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        zeros = torch.zeros(len(completions[own]))
        batches = self._batches(engine, self.heldout[own], completions[own], zeros)
        tokens = sum(len(c.tokens) for c in completions)
        kl = self._kl(batches, tokens)
        found = {
            "heldout_reward": round(float(rewards.mean()), 6),
            **{f"heldout_{name}": round(float(values.mean()), 6) for name, values in by_name.items()},
            **({} if kl is None else {"heldout_kl": round(kl, 6)}),
            "heldout_completion_tokens": round(tokens / len(completions), 2),
            "heldout_distinct": round(len({tuple(c.tokens) for c in completions}) / len(completions), 4),
        }
        if self.curve:
            self.curve.add({metrics.STEP: step, **found})
        return found

    def _complete(self, prompts: list[Prompt], seeds: list[int]) -> list[Completion]:
        """A completion of each prompt, on every rank."""
        box: list[Any] = [None]
        if self.sync.fleet:
            options = {"max_tokens": self.spec.max_completion_tokens, "temperature": self.spec.temperature}
            tokens = [prompt.tokens for prompt in prompts]
            box = [self.sync.fleet.generate(tokens, seeds, eos_token_id=self.eos_token_id, **options)]
        dist.broadcast_object_list(box)
        completions: list[Completion] = box[0]
        return completions

    def _scores(self, prompts: list[Prompt], completions: list[Completion]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted reward of each completion, and each function's, in order; every rank scores its share."""
        share = -(-len(prompts) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        parts: list[dict[str, list[float]]] = [{}] * self.plan.num_workers
        dist.all_gather_object(parts, self.scorer(prompts[own], completions[own]))
        by_name = {name: torch.tensor([x for part in parts for x in part[name]]) for name in self.spec.rewards}
        total = sum(weight * by_name[name] for name, weight in self.spec.rewards.items())
        assert isinstance(total, Tensor)
        return total, by_name

    @torch.no_grad()
    def _batches(
        self, engine: Engine, prompts: list[Prompt], completions: list[Completion], advantages: Tensor
    ) -> list[dict[str, Tensor]]:
        """Micro-batches, right-padded, with the log-probabilities of the reference where there is one."""
        size, batches = self.plan.micro_batch, []
        for start in range(0, len(prompts), size):
            rows = list(zip(prompts[start : start + size], completions[start : start + size], strict=True))
            length = max(len(p.tokens) + len(c.tokens) for p, c in rows)
            tokens = torch.zeros((len(rows), length), dtype=torch.int64)
            learn = torch.zeros((len(rows), length), dtype=torch.bool)
            behaviour = torch.zeros((len(rows), length))
            for row, (prompt, completion) in enumerate(rows):
                begin, end = len(prompt.tokens), len(prompt.tokens) + len(completion.tokens)
                tokens[row, :end] = torch.tensor(prompt.tokens + completion.tokens)
                learn[row, begin:end] = True
                behaviour[row, begin:end] = torch.tensor(completion.logprobs)
            batch = {"tokens": tokens, "learn": learn[:, 1:], "behaviour": behaviour[:, 1:]}
            if self.reference is not None:
                found = token_logprobs(self.reference, tokens.to(engine.device), self.spec.temperature)
                batch["reference"] = found.cpu()
            batches.append({**batch, "advantages": advantages[start : start + size].clone()})
        return batches

    def _kl(self, batches: list[dict[str, Tensor]], tokens: int) -> float | None:
        """KL to the reference (nats per token) over the batches of all ranks, by what the engine said when it drew;
        None without a reference."""
        if self.reference is None:
            return None
        parts = [k3(batch["behaviour"], batch["reference"])[batch["learn"]].sum().double() for batch in batches]
        summed = torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)
        dist.all_reduce(summed)
        return float(summed) / tokens
