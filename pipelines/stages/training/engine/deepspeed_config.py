"""The DeepSpeed configuration that follows from spec, scaling and batch plan: the one place where it is made.

`scaling.deepspeed_overrides` is merged over it, for what this project has no field for. It may not touch what a field
says already, nor what would change the result: a run is named by its spec, and overrides are no part of that name.
"""

from __future__ import annotations

from typing import Any

from cluster.core.errors import SpecError, nearest
from cluster.core.specs.spec import merge
from pipelines.specs import ScalingSpec, TrainingSpec
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import BatchPlan
from pipelines.stages.training.parallel import tensor_parallel

BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's default; it allocates as much however small the model is

OPEN = [
    "comms_logger",
    "gradient_predivide_factor",
    "memory_breakdown",
    "prescale_gradients",
    "wall_clock_breakdown",
    "zero_optimization",
]
_FIELDS = "`optimizer`, `learning_rate`, `weight_decay`, `beta1` and `beta2`"
_LAYOUT = "the optimizers rely on where ZeRO puts the weights"
_RESULT = "it changes the result, which scaling must not"
_TAKEN = {
    "train_batch_size": "set `global_batch_size` of the stage",
    "train_micro_batch_size_per_gpu": "set scaling.micro_batch_size",
    "gradient_accumulation_steps": "set scaling.micro_batch_size",
    "gradient_clipping": "set `max_grad_norm` of the stage",
    "fp16": "set `precision` of the stage",
    "bf16": "set `precision` of the stage",
    "torch_autocast": "set `precision` of the stage",
    "data_types": "set `precision` of the stage",
    "communication_data_type": _RESULT,
    "optimizer": f"set {_FIELDS} of the stage",
    "zero_allow_untested_optimizer": f"set {_FIELDS} of the stage",
    "zero_force_ds_cpu_optimizer": f"set {_FIELDS} of the stage",
    "scheduler": "set `schedule`, `warmup_steps` and `min_learning_rate_fraction` of the stage",
    "activation_checkpointing": "set scaling.activation_checkpointing",
    "compile": "set scaling.compile",
    "tensor_parallel": "set scaling.tensor_parallel_size",
    "zero_optimization.stage": "set scaling.zero_stage",
    "zero_optimization.offload_optimizer.device": "set scaling.offload_optimizer",
    "zero_optimization.offload_param.device": "set scaling.offload_parameters",
    "zero_optimization.cpu_offload": "set scaling.offload_optimizer",
    "zero_optimization.cpu_offload_param": "set scaling.offload_parameters",
    "zero_optimization.round_robin_gradients": _LAYOUT,
    "zero_optimization.parameter_alignment": _LAYOUT,
    "zero_optimization.compute_grad_norm": "every log line tells the norm",
    "zero_optimization.zenflow": _RESULT,
    "zero_optimization.zero_quantized_weights": _RESULT,
    "zero_optimization.zero_quantized_nontrainable_weights": _RESULT,
    "zero_optimization.zero_quantized_gradients": _RESULT,
}


def deepspeed_config(spec: TrainingSpec, scaling: ScalingSpec, plan: BatchPlan, parameters: int) -> dict[str, Any]:
    """The configuration for a model of so many trained parameters, with the overrides merged over it."""
    derived = {
        "train_micro_batch_size_per_gpu": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        # DeepSpeed takes a group of workers that see the same sequences for as many with sequences of their own.
        "train_batch_size": plan.global_batch * plan.group_size,
        # Without ZeRO, DeepSpeed clips but does not tell the norm: then the engine does both.
        "gradient_clipping": spec.max_grad_norm if scaling.zero_stage else 0.0,
        # DeepSpeed asks for an even number.
        "zero_optimization": _zero(scaling, min(BUCKET_ELEMENTS, parameters + parameters % 2)),
        "zero_allow_untested_optimizer": True,  # the optimizer is ours
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own compiles for 90 s on first use
        "steps_per_print": None,
    }
    if plan.tensor_parallel_size > 1:
        derived["tensor_parallel"] = tensor_parallel.settings(plan.tensor_parallel_size)
    return merge(derived, scaling.deepspeed_overrides)


def _zero(scaling: ScalingSpec, bucket: int) -> dict[str, Any]:
    on_gpus = scaling.gpus_per_worker > 0
    zero: dict[str, Any] = {
        "stage": scaling.zero_stage,
        # Reduction beside the backward pass needs streams, which CPUs do not have.
        "overlap_comm": on_gpus,
        "round_robin_gradients": False,  # the layouts rely on the order
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if scaling.offload_optimizer == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpus}
    if scaling.offload_parameters == "cpu":
        zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpus}
    return zero


def check_overrides(spec: TrainingSpec, scaling: ScalingSpec) -> None:
    """Raises SpecError for an override that contradicts a field, or that DeepSpeed does not know."""
    overrides = scaling.deepspeed_overrides
    if not overrides:
        return
    for path in _paths(overrides):
        if remedy := _TAKEN.get(path):
            raise SpecError(f"scaling.deepspeed_overrides.{path}: not to be overridden here", f"{remedy}.")
    for name in overrides:
        if name not in OPEN:
            raise SpecError(
                f"scaling.deepspeed_overrides.{name}: not among what may be overridden",
                nearest(name, OPEN),
            )
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError
    from pydantic import ValidationError

    alone = BatchPlan(1, 1, 1, 1, 1, BatchSizes(1, 1, 0))  # there are no ranks yet to share a batch
    try:
        DeepSpeedConfig(deepspeed_config(spec, scaling, alone, 1))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SpecError(
            f"scaling.deepspeed_overrides: DeepSpeed refuses {where!r}: {first['msg']}",
            "www.deepspeed.ai/docs/config-json lists its settings.",
        ) from error
    except (DeepSpeedConfigError, ValueError, TypeError, AssertionError) as error:
        raise SpecError(
            f"scaling.deepspeed_overrides: DeepSpeed refuses them: {error}",
            "www.deepspeed.ai/docs/config-json lists its settings.",
        ) from error


def _paths(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all nodes, outer ones first."""
    found = []
    for name, value in tree.items():
        found.append(f"{prefix}{name}")
        if isinstance(value, dict):
            found += _paths(value, f"{prefix}{name}.")
    return found
