"""What must be known of a rollout's tokens before it is learned from: what reference, teacher and critic say of them,
and what advantages follow. Each rank asks the models about its share of the completions; all know of all in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.advantages.advantage import Drawn
from pipelines.stages.alignment.critic import explained_variance
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.packing import micro_batches, padded, placed_steps, rows_of
from pipelines.stages.alignment.policy_gradient import PROXIMAL, k3
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.pool import Steps
from pipelines.stages.generation.engine import Completion
from pipelines.stages.training.batches import BatchPlan
from pipelines.stages.training.engine.engine import Engine


@dataclass(frozen=True)
class Verdict:
    """Advantages, of answers or of tokens; figures of each completion's tokens, by name; the mean KL to the reference
    (nats per token), or None; what there is to tell."""

    advantages: list[float] | list[list[float]]
    rows: dict[str, list[list[float]]]
    kl: float | None
    figures: dict[str, float]


class Appraiser:
    """The models beside the policy, and the advantage of a spec. All ranks call it in the same order."""

    def __init__(self, spec: RlhfSpec, plan: BatchPlan, rank: int, reference: Any | None, teacher: Any | None) -> None:
        self.spec, self.plan, self.rank = spec, plan, rank
        self.reference, self.teacher = reference, teacher

    def __call__(
        self,
        engine: Engine,
        prompts: list[Prompt],
        completions: list[Completion],
        rewards: Tensor,
        present: Tensor,
        kl_coef: float,
        steps: list[Steps] | None = None,
    ) -> Verdict:
        """The verdict on completions, groups beside each other; their number is a multiple of that of the workers.
        `steps` are what of the rewards belongs to single tokens."""
        if not self.spec.looks_back:
            drawn = Drawn(rewards, self.spec.group_size, torch.empty(0), present=present)
            found = self.spec.advantage.of_tokens(drawn)
            return Verdict(found.advantages.tolist(), {}, None, {})
        rows = self._asked(engine, prompts, completions)
        lengths = [len(completion.logprobs) for completion in completions]  # what was drawn
        behaviour, known = padded([c.logprobs for c in completions]), {n: padded(r) for n, r in rows.items()}
        learn = torch.arange(behaviour.size(1)) < torch.tensor(lengths).unsqueeze(1)
        kl, penalty, figures = None, None, {}
        if self.reference is not None:
            kl = float(k3(behaviour, known["reference"])[learn].mean())
            if self.spec.kl_penalty == "reward":
                penalty = -kl_coef * (behaviour - known["reference"])
        if by_step := self.spec.rewards_steps and steps is not None:
            brought = placed_steps(steps, learn)
            rewards = rewards - brought.sum(1).to(rewards.dtype).where(present, 0)
            penalty = brought if penalty is None else penalty + brought
        advantage = known["teacher"] - behaviour if self.teacher is not None else None
        judged = self.spec.advantage.of_tokens(
            Drawn(rewards, self.spec.group_size, learn, penalty, known.get("values"), advantage, present, by_step)
        )
        if judged.returns is not None:
            rows["returns"] = rows_of(judged.returns, learn)
            figures["explained_variance"] = explained_variance(known["values"][learn], judged.returns[learn])
        if advantage is not None:
            figures["teacher_kl"] = -float(advantage[learn].mean())
            del rows["teacher"]
        told = judged.advantages
        return Verdict(rows_of(told, learn) if told.dim() > 1 else told.tolist(), rows, kl, figures)

    @torch.no_grad()
    def _asked(
        self, engine: Engine, prompts: list[Prompt], completions: list[Completion]
    ) -> dict[str, list[list[float]]]:
        """Of each completion's tokens what reference, teacher and the policy itself think of them (nats), and the
        critic's values."""
        share = -(-len(prompts) // self.plan.num_workers)
        own = slice(self.rank * share, (self.rank + 1) * share)
        models = {"reference": self.reference, "teacher": self.teacher}
        found: dict[str, list[list[float]]] = {name: [] for name, model in models.items() if model is not None}
        if self.spec.advantage.value_function:
            found["values"] = []
        if self.spec.remembers_policy:
            found[PROXIMAL] = []
        for _, batch in micro_batches(prompts[own], completions[own], self.plan.micro_batch):
            asked = {name: batch[name] for name in ("tokens", "learn")}
            for name in found:
                if name == "values":
                    figures = engine.look({"tokens": batch["tokens"], "valued": batch["learn"]})
                elif name == PROXIMAL:
                    figures = engine.look(asked)
                else:
                    temperature = self.spec.temperature
                    figures = token_logprobs(models[name], temperature=temperature, **engine.to_device(asked))
                found[name] += rows_of(figures.cpu(), batch["learn"])
        parts: list[dict[str, list[list[float]]]] = [{}] * self.plan.num_workers
        dist.all_gather_object(parts, found)
        return {name: [row for part in parts for row in part[name]] for name in found}

    @torch.no_grad()
    def teacher_kl(self, engine: Engine, prompts: list[Prompt], completions: list[Completion]) -> float:
        """KL(policy || teacher), nats per token: the mean over all ranks' completions, of which this has its own."""
        summed = torch.zeros(2, dtype=torch.float64)
        for _, batch in micro_batches(prompts, completions, self.plan.micro_batch):
            learn = batch["learn"]
            asked = engine.to_device({"tokens": batch["tokens"], "learn": learn})
            theirs = token_logprobs(self.teacher, temperature=self.spec.temperature, **asked).cpu()
            summed += torch.stack([(batch["behaviour"] - theirs)[learn].double().sum(), learn.sum().double()])
        dist.all_reduce(summed)
        return float(summed[0] / summed[1].clamp(min=1))
