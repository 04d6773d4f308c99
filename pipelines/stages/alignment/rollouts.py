"""The batches of RLHF: prompts from the order, completions from vLLM, rewards, advantages.

A rollout is a function of the weights before it, its number and the seed: after a crash the same prompts get the same
completions again. One or more steps learn from it, each from a minibatch. Rank 0 talks to the engines and keeps the
ledger; every rank scores and learns its own share.
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
from pipelines.stages.alignment.curve import Curve
from pipelines.stages.alignment.ledger import Ledger
from pipelines.stages.alignment.policy_gradient import k3, token_logprobs
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.named import OVERLONG
from pipelines.stages.alignment.rollout import Rollout, forget, minibatch
from pipelines.stages.alignment.scoring import Failures, Scorer, Summed, summed
from pipelines.stages.alignment.sync import WeightSync
from pipelines.stages.generation.engine import Completion
from pipelines.stages.tokens.order import Order
from pipelines.stages.training.batches import BatchPlan, Share
from pipelines.stages.training.engine.engine import Engine
from pipelines.stages.training.loop import mix
from pipelines.stages.training.sources import Source


def overlong(lengths: Tensor, max_tokens: int, within: int) -> Tensor:
    """The penalty (n,) of completions of `lengths` (n,): 0 up to `within` tokens below the maximum, -1 at it."""
    return -((lengths - (max_tokens - within)) / within).clamp(0, 1)


def token_weights(spec: RlhfSpec, completions: list[Completion]) -> Tensor:
    """What a token of each completion weighs (n,), so that the sum over tokens by all tokens is the mean asked for."""
    lengths = torch.tensor([float(len(c.tokens)) for c in completions])
    if spec.mean_over == "tokens":
        return torch.ones_like(lengths)
    own = lengths if spec.mean_over == "answers" else torch.full_like(lengths, spec.max_completion_tokens)
    return lengths.sum() / (len(completions) * own)


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
        state: Location,
        eos_token_id: int,
    ) -> None:
        self.spec, self.plan, self.rank = spec, plan, rank
        self.train, self.heldout = train, heldout[: spec.evaluation_prompts]
        self.order = Order(len(train), spec.seed)
        self.sync, self.scorer, self.reference = sync, scorer, reference
        self.eos_token_id, self.output, self.state = eos_token_id, output, state
        self.ledger = Ledger(output) if rank == 0 else None
        self.curve = Curve(output) if rank == 0 else None
        self.failures: Failures | None = None
        self._figures: dict[str, Any] = {}
        self._rollout: Rollout | None = None
        self._groups: list[int] = []  # of the rollout, in the last update

    def restart(self, step: int) -> None:
        self._rollout = None
        if self.ledger and self.curve:
            self.ledger.resumed(step)
            self.curve.cut(step)
            if self.scorer.may_fail:
                self.failures = Failures(self.output, step)

    def taken(self, step: int) -> None:
        if self.ledger:
            self.ledger.consumed(step, self._groups)

    def skipped(self, step: int, reason: str) -> None:
        if self.ledger:
            self.ledger.skipped(step, reason, self._groups)

    def figures(self) -> dict[str, Any]:
        return self._figures

    def share(self, step: int, engine: Engine) -> Share:
        number, update = divmod(step, self.spec.steps_per_rollout)
        if update == 0:
            self.sync(step, engine)
            if step == 0:
                self._evaluate(engine, 0)
            self._rollout = self._draw(number)
        elif self._rollout is None:
            self._rollout = Rollout.load(self.state, number)
        return self._learn_from(self._rollout, update, engine)

    def _draw(self, number: int) -> Rollout:
        """The rollout of a number, from the weights that the engines hold; the same on every rank."""
        began = time.monotonic()
        spec, steps = self.spec, self.spec.steps_per_rollout
        groups = spec.global_batch_size // spec.group_size * spec.minibatches_per_rollout
        positions = self.order.samples(number * groups, (number + 1) * groups).tolist()
        if self.ledger:
            self.ledger.issued(number * steps, number * groups, [self.train[i].id for i in positions], steps)
        chosen = [i for i in positions for _ in range(spec.group_size)]
        prompts = [self.train[i] for i in chosen]
        completions = self._complete(prompts, [mix(spec.seed, number, i) for i in range(len(prompts))])
        seconds = time.monotonic() - began
        scores = self._scores(prompts, completions, number * steps, heldout=False)
        figures = {
            metrics.REWARD: round(scores.mean, 6),
            **{f"reward_{name}": round(mean, 6) for name, mean in scores.means().items()},
            **({"reward_failures": len(scores.failures)} if self.scorer.may_fail else {}),
            "flat_groups_fraction": round(scores.flat(spec.group_size), 4),
            "completion_tokens": round(sum(len(c.tokens) for c in completions) / len(completions), 2),
            "finished_fraction": round(sum(c.finished for c in completions) / len(completions), 4),
            "rollout_seconds": round(seconds, 3),
        }
        advantages = spec.advantage.among(scores.total, scores.present, spec.group_size)
        rollout = Rollout(number, chosen, completions, advantages.tolist(), figures)
        if steps > 1:
            if self.ledger:
                rollout.save(self.state)
                forget(self.state, number, steps)
            dist.barrier()
        return rollout

    def _learn_from(self, rollout: Rollout, update: int, engine: Engine) -> Share:
        """This rank's share of one update of a rollout."""
        spec = self.spec
        epoch, part = divmod(update, spec.minibatches_per_rollout)
        groups = len(rollout.prompts) // spec.group_size
        seed = (spec.seed, rollout.number, epoch)
        rows = minibatch(seed, groups, spec.group_size, part, spec.minibatches_per_rollout)
        self._groups = [row // spec.group_size for row in rows[:: spec.group_size]]
        completions = [rollout.completions[row] for row in rows]
        tokens = sum(len(c.tokens) for c in completions)
        first, last = self.plan.positions(0, self.rank)
        own = slice(first, last)
        batches = self._batches(
            engine,
            [self.train[rollout.prompts[row]] for row in rows[own]],
            completions[own],
            torch.tensor([rollout.advantages[row] for row in rows[own]]),
            token_weights(spec, completions)[own],
        )
        kl = self._kl(batches, tokens)
        limited = bool(spec.max_kl and kl is not None and kl > spec.max_kl)
        if limited:
            for batch in batches:
                batch["advantages"].zero_()  # this step only pulls the policy back
        self._figures = {
            **rollout.figures,
            **({} if kl is None else {metrics.KL: round(kl, 6), "kl_limited": limited}),
            **({"staleness_steps": update} if spec.steps_per_rollout > 1 else {}),
        }
        if self.sync.verified:
            self._figures["verified_syncs"] = self.sync.verified
        asked = sum(len(self.train[rollout.prompts[row]].tokens) for row in rows)
        return Share(list(batches), tokens, tokens + asked)

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        self.sync(step, engine)
        return self._evaluate(engine, step)

    def _evaluate(self, engine: Engine, step: int) -> dict[str, Any]:
        """One completion of every held-out prompt: rewards and KL. The seeds are those of every other evaluation."""
        seeds = [mix(self.spec.seed, 1 << 40, i) for i in range(len(self.heldout))]
        completions = self._complete(self.heldout, seeds)
        scores = self._scores(self.heldout, completions, step, heldout=True)
        share = -(-len(completions) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        zeros = torch.zeros(len(completions[own]))
        batches = self._batches(engine, self.heldout[own], completions[own], zeros, zeros)
        tokens = sum(len(c.tokens) for c in completions)
        kl = self._kl(batches, tokens)
        found = {
            "heldout_reward": round(scores.mean, 6),
            **{f"heldout_{name}": round(mean, 6) for name, mean in scores.means().items()},
            **({"heldout_reward_failures": len(scores.failures)} if self.scorer.may_fail else {}),
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

    def _scores(self, prompts: list[Prompt], completions: list[Completion], step: int, heldout: bool) -> Summed:
        """The reward of each completion, in order; every rank scores its share."""
        share = -(-len(prompts) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        parts: list[Any] = [None] * self.plan.num_workers
        dist.all_gather_object(parts, self.scorer(prompts[own], completions[own]))
        also: dict[str, Tensor] = {}
        if self.spec.overlong_tokens:
            lengths = torch.tensor([len(c.tokens) for c in completions])
            also[OVERLONG] = overlong(lengths, self.spec.max_completion_tokens, self.spec.overlong_tokens)
        scores = summed(self.spec, parts, also)
        if self.failures:
            self.failures.add(step, heldout, scores.failures)
        return scores

    @torch.no_grad()
    def _batches(
        self,
        engine: Engine,
        prompts: list[Prompt],
        completions: list[Completion],
        advantages: Tensor,
        weights: Tensor,
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
            of_rows = {"advantages": advantages, "weights": weights}
            batches.append(batch | {name: values[start : start + size].clone() for name, values in of_rows.items()})
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
