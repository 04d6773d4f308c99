"""DeepSpeed behind four verbs: train a step, evaluate, save its state, load one. The loop knows nothing of ZeRO.

Losses arrive summed and are divided by the global number of tokens (or pairs), so that accumulation, workers and ZeRO
stage change a result only by the order of additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger
from torch import Tensor

from pipelines.specs import ScalingSpec, TrainingSpec
from pipelines.stages.training.batches import Batch, BatchPlan, Share
from pipelines.stages.training.checkpoints import shards
from pipelines.stages.training.checkpoints.snapshots import Snapshot, State
from pipelines.stages.training.engine.deepspeed_config import deepspeed_config
from pipelines.stages.training.engine.loss_scale import LossScale
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.optimizers.optimizers import Optimizer
from pipelines.stages.training.parallel import cuts
from pipelines.stages.training.parallel.layouts import zero_layouts


@dataclass(frozen=True)
class Hooks:
    """What looks on while a step is taken; all ranks call each once a step.

    `gradients` comes before clipping and update. `admit`, given the step's figures and norm as `Engine.step` returns
    them, comes before the update; where it returns False, weights and optimizer state stay as they are.
    """

    admit: Callable[[Tensor, float], bool] = lambda parts, norm: True
    gradients: Callable[[], None] = lambda: None


class Engine:
    """An objective and its optimizer on `plan.num_workers` ranks. Needs an initialized process group."""

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        spec: TrainingSpec,
        scaling: ScalingSpec,
        plan: BatchPlan,
    ) -> None:
        deepspeed_logger.setLevel("ERROR")
        # On CPUs DeepSpeed would compile a shared-memory all-reduce that only inference uses.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.spec, self.plan, self.stage = spec, plan, scaling.zero_stage
        self.objective, self.optimizer = objective, optimizer
        objective.train()  # transformers loads models in evaluation mode, without dropout
        self.loss_scale = LossScale() if spec.precision == "fp16" else None
        self.overflowed = False
        self.gradient_scale = 1.0  # of the gradients that `Hooks.gradients` sees
        if scaling.activation_checkpointing:
            for module in (objective.model, *(beside for beside, _ in objective.beside())):
                module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if scaling.compile:
            objective.model.compile()  # in place: weights keep their names
        trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
        self.engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=optimizer,
            config=deepspeed_config(spec, scaling, plan, trained),
            dist_init_required=False,
        )
        if plan.tensor_parallel_size > 1:
            self.engine.first_dataloader_check.remove()  # it cannot compare batches that are dicts
        self.device: torch.device = self.engine.device
        if self.stage:
            optimizer.layouts = zero_layouts(self.engine.optimizer, optimizer.wholes, self.device)

    def step(self, share: Share, factor: float, hooks: Hooks = Hooks()) -> tuple[Tensor, float]:
        """One optimizer step at `factor` of the peak learning rates.

        Returns this rank's part of the mean loss of the global batch and of the objective's further figures, in one
        float64 vector (those of all ranks add up to them), and the global gradient norm before clipping, inf or nan
        where the gradient is not finite: then the weights stay as they are. `overflowed` tells whether that was for
        fp16's narrow range, which a lower loss scale cures.
        """
        self.optimizer.set_factor(factor)
        scale = self.loss_scale.value if self.loss_scale else 1.0
        if self.stage and self.loss_scale:
            self.engine.optimizer.override_loss_scale(scale)  # ZeRO scales the loss and unscales the gradient itself
        total = torch.zeros((), device=self.device)
        for left, micro_batch in zip(reversed(range(len(share.micro_batches))), share.micro_batches, strict=True):
            self.engine.set_gradient_accumulation_boundary(left == 0)
            loss = self.engine(self.to_device(micro_batch)) / share.divisor
            total += loss.detach()
            # DeepSpeed averages gradients over the ranks; the loss is already divided by the global count.
            weight = self.plan.zero_size * (1.0 if self.stage else scale)
            self.engine.backward(loss * weight, scale_wrt_gas=False)
            if left:
                self.engine.step()
        parts = self._part(total, self.objective.pop_sums() / share.divisor)
        return parts, self._update(parts, scale, hooks)

    def _part(self, loss: Tensor, figures: Tensor) -> Tensor:
        """This rank's part of what all ranks add up: those that share layers have found the same."""
        return torch.cat([loss.cpu().double().view(1), figures]) / self.plan.tensor_parallel_size

    def _update(self, parts: Tensor, scale: float, hooks: Hooks) -> float:
        """Let the optimizer take its step, where `hooks` admit it. Returns the global gradient norm."""
        if self.stage == 0 and self.loss_scale:  # ZeRO does so by itself, when it steps
            for parameter in self.engine.module.parameters():
                if parameter.grad is not None:
                    parameter.grad /= scale
        self.gradient_scale = scale if self.stage else 1.0
        hooks.gradients()
        clipped = self._clip() if self.stage == 0 else None
        verdict: list[bool] = []

        def admitted() -> bool:
            if not verdict:  # ZeRO has the optimizer step once a parameter group
                norm = self._norm(clipped)
                if self.loss_scale:
                    self.overflowed = self.loss_scale.update(math.isfinite(norm))
                verdict.append(hooks.admit(parts, norm))
            return verdict[0]

        self.optimizer.admit = admitted
        self.engine.step()
        admitted()  # DeepSpeed leaves out a step whose gradient is not finite, and does not ask
        return self._norm(clipped)

    def _norm(self, clipped: Tensor | None) -> float:
        """The global gradient norm of the step being taken, known as soon as the optimizer is asked to step."""
        norm = float(self.engine.optimizer._global_grad_norm if clipped is None else clipped)
        return norm if norm >= 0 else math.inf  # DeepSpeed says -1 for a norm that is not finite

    def _clip(self) -> Tensor:
        """Clip the gradients, and tell their norm before, as ZeRO does by itself."""
        parameters = list(self.engine.module.parameters())
        norm = cuts.gradient_norm(parameters)
        torch.nn.utils.clip_grads_with_norm_(parameters, self.spec.max_grad_norm or math.inf, norm)
        return norm

    def figures(self) -> dict[str, Any]:
        """What there is to tell in the log of the last step: of fp16, the loss scale and the steps that it cost."""
        if self.loss_scale is None:
            return {}
        return {"loss_scale": self.loss_scale.value, "overflowed_steps": self.loss_scale.skipped_steps}

    def to_device(self, batch: Batch) -> Batch:
        if isinstance(batch, dict):
            return {name: tensor.to(self.device) for name, tensor in batch.items()}
        return batch.to(self.device)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """This rank's part of the summed loss and further figures of a batch, a float64 vector; those of all ranks add
        up. Every rank must call it equally often."""
        return self._part(self.look(batch), self.objective.pop_sums())

    @torch.no_grad()
    def look(self, batch: Batch) -> Tensor:
        """What the objective makes of a batch in evaluation. Every rank must call it equally often."""
        self.engine.eval()
        found: Tensor = self.engine(self.to_device(batch))
        self.engine.train()
        return found

    def save_state(self, snapshot: Snapshot) -> dict[str, dict[str, float]]:
        """Copy this rank's part of weights and optimizer state; return what is one number for a group, by group.

        What is frozen, an adapter's base, comes from where it came from.
        """
        held = shards.to_save(self.engine, self.optimizer)
        snapshot.copy(named for shard in held for named in shard.tensors(self.optimizer))
        return {str(shard.group): self.optimizer.save_state(shard.flat, shard.group).numbers for shard in held}

    def notes(self) -> dict[str, Any]:
        """What else a resumed run must know, the same on all ranks: plain JSON."""
        return {"loss_scale": asdict(self.loss_scale)} if self.loss_scale else {}

    def load_state(self, state: State, notes: dict[str, Any]) -> None:
        """Take up what any number of ranks saved at any ZeRO stage. Every rank must call it."""
        for shard in shards.of_rank(self.engine, self.optimizer):
            shard.load_state(self.optimizer, state)
        shards.spread(self.engine, self.optimizer)
        if self.loss_scale:
            self.loss_scale = LossScale(**notes["loss_scale"])

    def weights(self, keep: bool, on_device: bool = False) -> dict[str, Tensor]:
        """Copies of the trained weights, whole, on the CPU or where they are computed with, by name, tied ones once,
        for the ranks that are to `keep` them; the others hold one at a time. Every rank must call it."""
        found = {}
        for name, parameter in self.engine.module.model.named_parameters():
            if not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                whole = cuts.whole(parameter)
                if keep:
                    found[name] = (whole if on_device else whole.cpu()).detach().clone()
        return found
