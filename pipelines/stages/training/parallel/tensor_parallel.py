"""Tensor parallelism: neighbouring workers share each layer's matrices (Megatron-LM, arXiv:1909.08053), by DeepSpeed's
AutoTP.

A layer's first matrices are cut by their outputs, and so by heads; its last ones by their inputs, whose products the
group adds up. All else is whole on every worker: embeddings, norms, output layer. DeepSpeed cuts, and exchanges in the
passes; ZeRO works among the workers that have the same part. cuts.py says which part a rank has.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from cluster.core.errors import SpecError
from pipelines.specs import ScalingSpec, SftSpec, TrainingSpec
from pipelines.stages.training.optimizers.optimizers import RULES

FIELD = "scaling.tensor_parallel_size"
FAMILIES = ("llama", "gpt_neox")  # those that a test compares with undivided runs
OUTPUTS = r".*\.(q_proj|k_proj|v_proj|gate_proj|up_proj|query_key_value|dense_h_to_4h)\.weight$"
INPUTS = r".*\.(o_proj|down_proj|dense|dense_4h_to_h)\.weight$"


def settings(size: int) -> dict[str, Any]:
    """DeepSpeed's `tensor_parallel`."""
    cuts = [{"patterns": [OUTPUTS], "partition_type": "column"}, {"patterns": [INPUTS], "partition_type": "row"}]
    return {"autotp_size": size, "partition_config": {"use_default_specs": False, "layer_specs": cuts}}


def keep_part(model: torch.nn.Module, size: int) -> None:
    """Leave of each cut weight as much as one worker has, as DeepSpeed does: for sizing, on tensors without values."""
    for name, module in model.named_modules():
        for cut, pattern in enumerate((OUTPUTS, INPUTS)):
            if not re.match(pattern, f".{name}.weight"):
                continue
            for field, whole in module._parameters.items():
                if whole is not None and (field == "weight" or cut == 0):  # a bias goes with the outputs
                    setattr(module, field, torch.nn.Parameter(whole.detach().chunk(size, cut)[0].clone()))


def check_cut(scaling: ScalingSpec, spec: TrainingSpec, config: Any) -> None:
    """Raise SpecError where the layers of a model, a transformers configuration, cannot be cut."""
    size = scaling.tensor_parallel_size
    if size == 1:
        return
    remedy = "Set it to 1"
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise SpecError(f"{FIELD}: the family {config.model_type!r} is not cut", f"{remedy}, or take one of {known}.")
    if RULES[spec.optimizer].whole_matrices:
        raise SpecError(
            f"{FIELD}: {spec.optimizer} needs whole matrices", f"{remedy}, or {spec.kind}.optimizer to adamw."
        )
    if isinstance(spec, SftSpec) and not spec.method.cuts:
        raise SpecError(f"{FIELD}: what {spec.method.name} trains is not cut", f"{remedy}, or sft.method.type to full.")
    heads = config.num_attention_heads
    numbers = {
        "attention heads": heads,
        "key/value heads": getattr(config, "num_key_value_heads", None) or heads,
        "columns of the MLP (intermediate_size)": config.intermediate_size,
    }
    for name, number in numbers.items():
        if number % size:
            raise SpecError(
                f"{FIELD}: {size} does not divide the model's {number} {name}", f"{remedy}, or a divisor of {number}."
            )
