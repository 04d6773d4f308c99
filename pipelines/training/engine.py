"""DeepSpeed behind four verbs: train a step, evaluate, save, load. The loop knows nothing of ZeRO.

Losses arrive summed and are divided by the global number of tokens, so that accumulation, workers and ZeRO stage
change a result only by the order of additions.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import logger as deepspeed_logger
from torch import Tensor

from cluster.specs import PretrainSpec, ScalingSpec
from pipelines.training.batches import BatchPlan
from pipelines.training.optimizers import Layout, Optimizer

STATE = "state"  # DeepSpeed's folder inside a checkpoint


BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default; it allocates as much however small the model is


def deepspeed_config(spec: PretrainSpec, scaling: ScalingSpec, plan: BatchPlan, parameters: int) -> dict[str, Any]:
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


class Engine:
    """An objective and its optimizer on `plan.num_workers` ranks. Needs an initialized process group."""

    def __init__(
        self,
        objective: torch.nn.Module,
        optimizer: Optimizer,
        spec: PretrainSpec,
        scaling: ScalingSpec,
        plan: BatchPlan,
    ) -> None:
        deepspeed_logger.setLevel("ERROR")
        # On CPUs DeepSpeed would compile a shared-memory all-reduce that only inference uses.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.spec, self.plan, self.stage = spec, plan, scaling.zero_stage
        self.optimizer = optimizer
        self.engine, *_ = deepspeed.initialize(
            model=objective,
            optimizer=optimizer,
            config=deepspeed_config(spec, scaling, plan, sum(p.numel() for p in objective.parameters())),
            dist_init_required=False,
        )
        self.device: torch.device = self.engine.device
        if self.stage:
            optimizer.layouts = zero_layouts(self.engine.optimizer, optimizer)

    def step(self, micro_batches: list[Tensor], factor: float) -> tuple[float, float]:
        """One optimizer step at `factor` of the peak learning rates.

        Micro-batches are (sequences, length + 1) int64. Returns this rank's part of the mean loss of the global batch
        (the parts of all ranks add up to it) and the global gradient norm before clipping, inf or nan where the
        gradient is not finite.
        """
        self.optimizer.set_factor(factor)
        tokens = self.plan.global_batch * (micro_batches[0].size(1) - 1)
        total = torch.zeros((), device=self.device)
        for micro_batch in micro_batches:
            loss = self.engine(micro_batch.to(self.device)) / tokens
            total += loss.detach()
            # DeepSpeed averages gradients over the ranks; the loss is already divided by the global count.
            self.engine.backward(loss * self.plan.num_workers, scale_wrt_gas=False)
            norm = self._clip() if self.stage == 0 and self.engine.is_gradient_accumulation_boundary() else None
            self.engine.step()
        if norm is None:
            norm = self.engine.get_global_grad_norm()
        norm = float(norm)
        return float(total), norm if norm >= 0 else math.inf  # DeepSpeed says -1 for a norm that is not finite

    def _clip(self) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(self.engine.module.parameters(), self.spec.max_grad_norm or math.inf)

    @torch.no_grad()
    def evaluate(self, batch: Tensor) -> float:
        """Summed loss of a batch (sequences, length + 1). Every rank must call it equally often."""
        self.engine.eval()
        loss = float(self.engine(batch.to(self.device)))
        self.engine.train()
        return loss

    def save(self, folder: Path) -> None:
        """Write this rank's part of the state below `folder`, which all ranks share or each has its own of."""
        self.engine.save_checkpoint(str(folder), tag=STATE, save_latest=False)

    def load(self, folder: Path) -> None:
        """Take up the state that the same number of ranks saved at the same ZeRO stage."""
        self.engine.load_checkpoint(str(folder), tag=STATE)

    def weights(self) -> dict[str, Tensor]:
        """The model's whole weights on the CPU, by name, tied ones once. Every rank must call it."""
        found = {}
        for name, parameter in self.engine.module.model.named_parameters():
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
