"""The batches of RLHF: prompts from the order, completions from vLLM, rewards, advantages.

A rollout is a function of the weights before it, its number, its place in the order and the seed: after a crash the
same prompts get the same completions again. One or more steps learn from it, each from a minibatch. Rank 0 talks to the
engines and keeps the ledger; every rank scores and learns its own share.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.core import metrics
from cluster.core.storage.location import Location
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.appraisal import Appraiser
from pipelines.stages.alignment.curve import Curve
from pipelines.stages.alignment.divergence import divergence
from pipelines.stages.alignment.kl_control import AdaptiveKl
from pipelines.stages.alignment.ledger import Ledger
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.packing import micro_batches, placed, repetition, token_weights
from pipelines.stages.alignment.policy_gradient import PolicyGradient
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rollout import Rollout, forget, minibatch
from pipelines.stages.alignment.sampling import Sampling, ages
from pipelines.stages.alignment.schedule import Schedule
from pipelines.stages.alignment.scoring import Failures, Scorer, Summed
from pipelines.stages.alignment.sync import WeightSync
from pipelines.stages.alignment.watching.alarms import alarms
from pipelines.stages.alignment.watching.transcripts import Said, Transcripts
from pipelines.stages.generation.engine import Completion
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
        teacher: Any | None,
        transcripts: Transcripts | None,
        output: Location,
        state: Location,
        eos_token_id: int,
    ) -> None:
        self.spec, self.plan, self.rank = spec, plan, rank
        self.train, self.heldout = train, heldout[: spec.evaluation_prompts]
        self.sync, self.reference = sync, reference
        self.appraiser = Appraiser(spec, plan, rank, reference, teacher)
        self.scorer, self.output, self.state = scorer, output, state
        self.ledger = Ledger(output) if rank == 0 else None
        self.sampling = Sampling(spec, plan, rank, train, sync, scorer, self.ledger, eos_token_id)
        self.schedule = Schedule(0, 1, 0)  # until it is known where the run begins
        self.curve = Curve(output) if rank == 0 else None
        self.failures: Failures | None = None
        self.transcripts = transcripts
        self._alarmed: set[str] = set()
        self._figures: dict[str, Any] = {}
        self._rollout: Rollout | None = None
        self._groups: list[int] = []  # places in the rollout, in the last update
        self._kl_coef = spec.first_kl_coef  # of the next rollout
        self._resumed: dict[str, Any] = {}

    def save_state(self) -> dict[str, Any]:
        return {"position": self.sampling.next_position(), "kl_coef": self._kl_coef}

    def load_state(self, state: dict[str, Any]) -> None:
        self._resumed = state

    def restart(self, step: int) -> None:
        self._rollout = None
        # A checkpoint of before has no state: each rollout had as many prompts.
        begun = -(-step // self.spec.steps_per_rollout)
        self.sampling.position = self._resumed.get("position", begun * self.sampling.groups)
        self.schedule = Schedule(
            self.spec.steps // self.spec.steps_per_rollout, self.spec.steps_per_rollout, self.spec.max_staleness, begun
        )
        self._kl_coef = self._resumed.get("kl_coef", self.spec.first_kl_coef)
        if self.ledger and self.curve:
            self.ledger.resumed(step)
            self.curve.cut(step)
            self._alarmed = {alarm.name for alarm in alarms(self.spec, self._lines(step), self.curve.points)}
        if self.transcripts:
            self.transcripts.cut(step)
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

    def notices(self) -> list[str]:
        """Signs of a policy that collapses, each when it is seen first."""
        if not self.curve:
            return []
        seen = alarms(self.spec, self._lines(), self.curve.points)
        new = [alarm for alarm in seen if alarm.name not in self._alarmed]
        self._alarmed |= {alarm.name for alarm in new}
        return [f"alarm: {alarm}" for alarm in new]

    def _lines(self, until: int | None = None) -> list[dict[str, Any]]:
        """The metrics of the steps so far, or of those up to one."""
        return [line for line in metrics.read(self.output) if until is None or line[metrics.STEP] <= until]

    def share(self, step: int, engine: Engine) -> Share:
        number, update = divmod(step, self.spec.steps_per_rollout)
        if update == 0:
            self.sync(step, engine)
            if step == 0:
                self._evaluate(engine, 0)
            due = self.schedule.due(step)
            for ahead in due if self.spec.max_staleness else ():
                self.sampling.begin(ahead)
            self._rollout = self._draw(number, engine)
        elif self._rollout is None:
            self._rollout = Rollout.load(self.state, number)
        return self._learn_from(self._rollout, step, engine)

    def _draw(self, number: int, engine: Engine) -> Rollout:
        """The rollout of a number, from the weights that the engines hold; the same on every rank."""
        spec, size = self.spec, self.spec.group_size
        drawn, flat, places = self.sampling(number)
        self.sync.rest()
        self.schedule.take(number, {version for c in drawn.completions for version in c.versions})
        scores = drawn.scores
        self._note(number * spec.steps_per_rollout, scores, heldout=False)
        rows = [place * size + member for place in places for member in range(size)]
        chosen, completions = [drawn.prompts[row] for row in rows], [drawn.completions[row] for row in rows]
        coefficient = self._kl_coef
        verdict = self.appraiser(
            engine,
            [self.train[i] for i in chosen],
            completions,
            scores.total[rows],
            scores.present[rows],
            coefficient,
            [scores.steps[row] for row in rows],
        )
        figures = {
            **drawn.figures(spec),
            **({"reward_failures": len(scores.failures)} if self.scorer.may_fail else {}),
            "zero_variance_fraction": round(float(flat.float().mean()), 4),
            **({"dropped_groups": len(flat) - len(places)} if spec.redraws else {}),
            **{name: round(figure, 6) for name, figure in verdict.figures.items()},
        }
        if isinstance(spec.kl_coef, AdaptiveKl) and verdict.kl is not None:
            figures["kl_coef"] = coefficient
            self._kl_coef = spec.kl_coef.after(coefficient, verdict.kl, len(chosen))
        if self.transcripts:
            of_rows = {name: values[rows].tolist() for name, values in scores.by_name.items()}
            prompts, total = [self.train[i] for i in chosen], scores.total[rows].tolist()
            said = Said(prompts, completions, total, of_rows, verdict.advantages)
            self.transcripts.add_rollout(number, number * spec.steps_per_rollout, size, said)
        rollout = Rollout(number, chosen, completions, verdict.advantages, figures, places, verdict.rows, coefficient)
        if spec.steps_per_rollout > 1:
            if self.ledger:
                rollout.save(self.state)
                forget(self.state, number, spec.steps_per_rollout)
            dist.barrier()
        return rollout

    def _learn_from(self, rollout: Rollout, step: int, engine: Engine) -> Share:
        """This rank's share of one step that learns from a rollout."""
        spec, update = self.spec, step % self.spec.steps_per_rollout
        epoch, part = divmod(update, spec.minibatches_per_rollout)
        groups = len(rollout.prompts) // spec.group_size
        seed = (spec.seed, rollout.number, epoch)
        rows = minibatch(seed, groups, spec.group_size, part, spec.minibatches_per_rollout)
        places = rollout.places or list(range(groups))
        self._groups = [places[row // spec.group_size] for row in rows[:: spec.group_size]]
        completions = [rollout.completions[row] for row in rows]
        tokens = sum(len(c.logprobs) for c in completions)
        first, last = self.plan.positions(0, self.rank)
        own = slice(first, last)
        batches = self._batches(
            engine,
            [self.train[rollout.prompts[row]] for row in rows[own]],
            completions[own],
            [rollout.advantages[row] for row in rows[own]],
            token_weights(spec, completions)[own],
            {name: [figures[row] for row in rows[own]] for name, figures in rollout.rows.items()},
        )
        far = divergence(batches, tokens) if self.reference is not None else None
        limited = bool(spec.max_kl and far and far.kl > spec.max_kl)
        if limited:
            for batch in batches:
                batch["advantages"].zero_()  # this step only pulls the policy back
        self._penalize(engine, rollout, limited)
        self._figures = {
            **rollout.figures,
            **({name: round(nats, 6) for name, nats in far._asdict().items()} | {"kl_limited": limited} if far else {}),
            **({"staleness_steps": update} if spec.steps_per_rollout > 1 and not spec.max_staleness else {}),
            **(ages(step, completions) if spec.max_staleness else {}),
            **self.sync.figures(),
        }
        asked = sum(len(self.train[rollout.prompts[row]].tokens) for row in rows)
        return Share(list(batches), tokens, tokens + asked)

    def _penalize(self, engine: Engine, rollout: Rollout, limited: bool) -> None:
        """Tell the objective the KL coefficient of the step. One that is part of the reward is no term of the loss,
        but in a step that learns from nothing else."""
        assert isinstance(engine.objective, PolicyGradient)
        known = rollout.kl_coef if isinstance(self.spec.kl_coef, AdaptiveKl) else self.spec.kl_coef
        engine.objective.kl_coef = known if limited or self.spec.kl_penalty != "reward" else 0.0

    def validate(self, engine: Engine, step: int) -> dict[str, Any]:
        self.sync(step, engine)
        found = self._evaluate(engine, step)
        self.sync.rest()
        return found

    def _evaluate(self, engine: Engine, step: int) -> dict[str, Any]:
        """One completion of every held-out prompt: rewards and KL. The seeds are those of every other evaluation."""
        seeds = [mix(self.spec.seed, 1 << 40, i) for i in range(len(self.heldout))]
        completions, _ = self.sampling.complete(self.heldout, seeds)
        scores = self.sampling.scores(self.heldout, completions, heldout=True)
        self._note(step, scores, heldout=True)
        share = -(-len(completions) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        zeros = torch.zeros(len(completions[own]))
        batches = self._batches(engine, self.heldout[own], completions[own], zeros.tolist(), zeros, {})
        tokens = sum(len(c.logprobs) for c in completions)
        kl = divergence(batches, tokens).kl if self.reference is not None else None
        appraiser = self.appraiser
        taught = (
            appraiser.teacher_kl(engine, self.heldout[own], completions[own]) if appraiser.teacher is not None else None
        )
        found = {
            "heldout_reward": round(scores.mean, 6),
            "heldout_reward_deviation": round(scores.deviation, 6),
            **{f"heldout_{name}": round(mean, 6) for name, mean in scores.means().items()},
            **({"heldout_reward_failures": len(scores.failures)} if self.scorer.may_fail else {}),
            **({} if kl is None else {"heldout_kl": round(kl, 6)}),
            **({} if taught is None else {"heldout_teacher_kl": round(taught, 6)}),
            "heldout_completion_tokens": round(tokens / len(completions), 2),
            "heldout_distinct": round(len({tuple(c.tokens) for c in completions}) / len(completions), 4),
            "heldout_repetition": round(sum(repetition(c.tokens) for c in completions) / len(completions), 4),
        }
        if self.transcripts:
            of_rows = {name: values.tolist() for name, values in scores.by_name.items()}
            said = Said(self.heldout, completions, scores.total.tolist(), of_rows, [None] * len(completions))
            self.transcripts.add_heldout(step, said)
        if self.curve:
            self.curve.add({metrics.STEP: step, **found})
        return found

    def _note(self, step: int, scores: Summed, *, heldout: bool) -> None:
        """Write what rewards failed on."""
        if self.failures:
            self.failures.add(step, heldout, scores.failures)

    @torch.no_grad()
    def _batches(
        self,
        engine: Engine,
        prompts: list[Prompt],
        completions: list[Completion],
        advantages: list[float] | list[list[float]],
        weights: Tensor,
        rows: dict[str, list[list[float]]],
    ) -> list[dict[str, Tensor]]:
        """Micro-batches, with `rows`, figures of each completion's tokens, and with the log-probabilities of the
        reference where there is one."""
        batches = []
        for own, batch in micro_batches(prompts, completions, self.plan.micro_batch):
            batch |= {name: placed(figures[own], batch["learn"]) for name, figures in rows.items()}
            if self.reference is not None and "reference" not in batch:
                on_device = engine.to_device({name: batch[name] for name in ("tokens", "learn")})
                found = token_logprobs(self.reference, temperature=self.spec.temperature, **on_device)
                batch["reference"] = found.cpu()
            of_rows: Any = advantages[own]
            by_token = isinstance(of_rows[0], list)
            batch["advantages"] = placed(of_rows, batch["learn"]) if by_token else torch.tensor(of_rows)
            batches.append(batch | {"weights": weights[own].clone()})
        return batches
