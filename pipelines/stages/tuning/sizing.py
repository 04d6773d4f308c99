"""What `ctl plan` says of fine-tuning, on conversations and on preferences: of what a method trains, beside the rest of
the model as it is stored."""

from __future__ import annotations

import logging
from typing import Any

from cluster.control.planning.hardware import Hardware
from cluster.control.planning.prediction import Prediction, Unsized
from cluster.core.graph import Step
from pipelines.specs import DpoSpec, ScalingSpec, SftSpec
from pipelines.stages.training.sizing.training_step import model_of, predict_model
from pipelines.stages.tuning.attention import NAME, check_packing, needs_no_mask
from pipelines.stages.tuning.methods import QLora


def predict(step: Step, scaling: ScalingSpec, hardware: Hardware) -> Prediction:
    """What SFT and DPO need (`sizing` of their specs). Raises as `sizing.training_step.predict` of training."""
    spec = step.spec
    assert isinstance(spec, SftSpec | DpoSpec)
    spec.check_scaling(scaling)
    config, sequence_length = model_of(step)
    if spec.packing:
        check_packing(config)
        if needs_no_mask(config, scaling):
            config._attn_implementation = NAME
    method = spec.method
    method.check_model(config)
    if isinstance(method, QLora) and method.dora:
        raise Unsized("the lengths of packed weights (qlora with dora) are not predicted")

    # What these libraries have to say is for whoever trains.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    def adapt(model: Any) -> Any:
        method.pack(model, spec.precision)
        return method.apply(model, spec.seed, values=False)

    pairs = isinstance(spec, DpoSpec) and spec.loss.paired
    stages = method.zero_stages[1:]
    return predict_model(
        step, config, sequence_length, scaling, hardware, adapt, stages, method.recomputes, sequences=1 + pairs
    )
