"""DeepSpeed behind four verbs: train a step, evaluate, save, load. The loop knows nothing of ZeRO.

Losses arrive summed and are divided by the global number of tokens (or pairs), so that accumulation, workers and ZeRO
stage change a result only by the order of additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger
from torch import Tensor

from cluster.specs import ScalingSpec, TrainingSpec
from pipelines.training.batches import Batch, BatchPlan, Share
from pipelines.training.objectives import Objective
from pipelines.training.optimizers import Layout, Optimizer

STATE = "state"  # DeepSpeed's folder inside a checkpoint


BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default; it allocates as much however small the model is


def deepspeed_config(spec: TrainingSpec, scaling: ScalingSpec, plan: BatchPlan, parameters: int) -> dict[str, Any]:
    """The DeepSpeed configuration that follows from spec, scaling and batch plan: the one place where it is made."""
    stage = scaling.zero_stage
    bucket = min(BUCKET_ELEMENTS, parameters)
    return {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "train_batch_size": plan.global_batch,
        # Without ZeRO, DeepSpeed clips but does not tell the norm: then the engine below does both.
        "gradient_clipping": spec.max_grad_norm if stage else 0.0,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": False,
            "round_robin_gradients": False,  # Muon's layouts rely on the order
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "zero_allow_untested_optimizer": True,  # the optimizer is ours
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own compiles for 90 s on first use
        "steps_per_print": None,
    }


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
        self.frozen = not all(p.requires_grad for p in objective.parameters())
        self.engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=optimizer,
            config=deepspeed_config(spec, scaling, plan, sum(p.numel() for p in objective.parameters())),
            dist_init_required=False,
        )
        self.device: torch.device = self.engine.device
        if self.stage:
            optimizer.layouts = zero_layouts(self.engine.optimizer, optimizer)

    def step(self, share: Share, factor: float, hooks: Hooks = Hooks()) -> tuple[Tensor, float]:
        """One optimizer step at `factor` of the peak learning rates.

        Returns this rank's part of the mean loss of the global batch and of the objective's further figures, in one
        float64 vector (those of all ranks add up to them), and the global gradient norm before clipping, inf or nan
        where the gradient is not finite.
        """
        self.optimizer.set_factor(factor)
        total = torch.zeros((), device=self.device)
        for micro_batch in share.micro_batches:
            loss = self.engine(self.to_device(micro_batch)) / share.divisor
            total += loss.detach()
            # DeepSpeed averages gradients over the ranks; the loss is already divided by the global count.
            self.engine.backward(loss * self.plan.num_workers, scale_wrt_gas=False)
            if not self.engine.is_gradient_accumulation_boundary():
                self.engine.step()
        parts = torch.cat([total.cpu().double().view(1), self.objective.told() / share.divisor])
        return parts, self._update(parts, hooks)

    def _update(self, parts: Tensor, hooks: Hooks) -> float:
        """Let the optimizer take its step, where `hooks` admit it. Returns the global gradient norm."""
        hooks.gradients()
        clipped = self._clip() if self.stage == 0 else None
        verdict: list[bool] = []

        def admitted() -> bool:
            if not verdict:  # ZeRO has the optimizer step once a parameter group
                verdict.append(hooks.admit(parts, self._norm(clipped)))
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
        return torch.nn.utils.clip_grad_norm_(self.engine.module.parameters(), self.spec.max_grad_norm or math.inf)

    def to_device(self, batch: Batch) -> Batch:
        if isinstance(batch, dict):
            return {name: tensor.to(self.device) for name, tensor in batch.items()}
        return batch.to(self.device)

    @torch.no_grad()
    def evaluate(self, batch: Batch) -> Tensor:
        """Summed loss and further figures of a batch, a float64 vector. Every rank must call it equally often."""
        self.engine.eval()
        loss = self.engine(self.to_device(batch))
        self.engine.train()
        return torch.cat([loss.cpu().double().view(1), self.objective.told()])

    def save(self, folder: Path) -> None:
        """Write this rank's part of the state below `folder`, which all ranks share or each has its own of."""
        # Frozen weights, an adapter's base, come from where they came from.
        self.engine.save_checkpoint(str(folder), tag=STATE, save_latest=False, exclude_frozen_parameters=self.frozen)

    def load(self, folder: Path) -> None:
        """Take up the state that the same number of ranks saved at the same ZeRO stage."""
        self.engine.load_checkpoint(str(folder), tag=STATE, load_module_strict=not self.frozen)

    def weights(self) -> dict[str, Tensor]:
        """The trained weights, whole, on the CPU, by name, tied ones once. Every rank must call it."""
        found = {}
        for name, parameter in self.engine.module.model.named_parameters():
            if not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                found[name] = parameter.detach().cpu().clone()
        return found


def zero_layouts(zero: Any, optimizer: Optimizer) -> dict[Tensor, Layout]:
    """Where ZeRO put the matrices of Muon's groups: flat tensor of this rank to its layout."""
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    if hasattr(zero, "fp32_partitioned_groups_flat"):  # ZeRO 3: each parameter is cut into one piece a rank
        groups = zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
        rows, sizes = ranks, [[p.partition_numel() for p in group] for group in zero.fp16_groups]
    else:  # ZeRO 1 and 2: parameters one after another are cut into equal pieces
        groups = zip(zero.single_partition_of_fp32_groups, zero.round_robin_bit16_groups, strict=True)
        rows, sizes = 1, [[p.numel() for p in group] for group in zero.round_robin_bit16_groups]
    layouts = {}
    for (flat, parameters), lengths in zip(groups, sizes, strict=True):
        if parameters[0] not in optimizer.matrices:
            continue
        ends = torch.tensor(lengths).cumsum(0).tolist()
        columns = [(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        layouts[flat] = Layout([optimizer.matrices[p] for p in parameters], columns, rows, rank, ranks)
    return layouts
