"""DeepSpeed behind four verbs: train a step, evaluate, give its state, take one up. The loop knows nothing of ZeRO.

Losses arrive summed and are divided by the global number of tokens (or pairs), so that accumulation, workers and ZeRO
stage change a result only by the order of additions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger
from torch import Tensor

from cluster.specs import ScalingSpec, TrainingSpec
from pipelines.training import shards
from pipelines.training.batches import Batch, BatchPlan, Share
from pipelines.training.objectives import Objective
from pipelines.training.optimizers import Layout, Optimizer
from pipelines.training.snapshots import Snapshot, State

BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default; it allocates as much however small the model is


def deepspeed_config(spec: TrainingSpec, scaling: ScalingSpec, plan: BatchPlan, parameters: int) -> dict[str, Any]:
    """The DeepSpeed configuration that follows from spec, scaling and batch plan: the one place where it is made."""
    stage = scaling.zero_stage
    bucket = min(BUCKET_ELEMENTS, parameters + parameters % 2)  # DeepSpeed asks for an even one
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
        self.engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=optimizer,
            config=deepspeed_config(spec, scaling, plan, sum(p.numel() for p in objective.parameters())),
            dist_init_required=False,
        )
        self.device: torch.device = self.engine.device
        if self.stage:
            optimizer.layouts = zero_layouts(self.engine.optimizer, optimizer)

    def step(
        self, share: Share, factor: float, before_update: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, float]:
        """One optimizer step at `factor` of the peak learning rates; `before_update` is called when all else is done.

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
            norm = self._clip() if self.stage == 0 and self.engine.is_gradient_accumulation_boundary() else None
            if self.engine.is_gradient_accumulation_boundary():
                before_update()
            self.engine.step()
        if norm is None:
            norm = self.engine.get_global_grad_norm()
        norm = float(norm)
        parts = torch.cat([total.cpu().double().view(1), self.objective.told() / share.divisor])
        return parts, norm if norm >= 0 else math.inf  # DeepSpeed says -1 for a norm that is not finite

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

    def take(self, snapshot: Snapshot) -> dict[str, dict[str, float]]:
        """Copy this rank's part of weights and optimizer state; return what is one number for a group, by group.

        What is frozen, an adapter's base, comes from where it came from.
        """
        parts = shards.to_save(self.engine, self.optimizer)
        snapshot.take(
            (f"{key}/{piece.parameter}/{piece.start}", tensor)
            for piece in parts
            for key, tensor in shards.tensors(piece, self.optimizer)
        )
        return {str(piece.group): shards.scalars(piece, self.optimizer) for piece in parts}

    def load(self, state: State) -> None:
        """Take up what any number of ranks saved at any ZeRO stage. Every rank must call it."""
        for piece in shards.pieces(self.engine, self.optimizer):
            own = self.optimizer.state[piece.flat]
            for key in state.keys(piece.parameter):
                held = piece.flat if key == shards.WEIGHT else own.get(key)
                if held is None:
                    held = own[key] = torch.zeros_like(piece.flat.detach())
                state.read(key, piece.parameter, piece.start, piece.of(held))
            for key, value in state.scalars[str(piece.group)].items():
                own[key] = torch.tensor(value, dtype=torch.float32, device=piece.flat.device)
        shards.spread(self.engine, self.optimizer)

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
