"""What `ctl plan` says of fine-tuning: of all weights, or of low-rank updates over a base as it is stored."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from cluster.control.planning.hardware import Hardware
from cluster.control.planning.prediction import Prediction
from cluster.core.graph import Step
from pipelines.specs import ScalingSpec, SftSpec
from pipelines.stages.training.sizing.training_step import model_of, predict_model
from pipelines.stages.tuning.adapters import add_adapter, pack
from pipelines.stages.tuning.attention import NAME, check_packing, needs_no_mask


def predict(step: Step, scaling: ScalingSpec, hardware: Hardware) -> Prediction:
    """What SFT needs (`sizing` of its spec). Raises as `pipelines.stages.training.sizing.training_step.predict`."""
    spec = step.spec
    assert isinstance(spec, SftSpec)
    spec.check_scaling(scaling)
    config, sequence_length = model_of(step)
    if spec.packing:
        check_packing(config)
        if needs_no_mask(config, scaling):
            config._attn_implementation = NAME
    if spec.adapter == "none":
        return predict_model(step, config, sequence_length, scaling, hardware)

    # What these libraries have to say is for whoever trains.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    def adapt(model: Any) -> Any:
        if spec.adapter == "qlora":
            pack(model, spec)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return add_adapter(model, spec)

    stages = (1, 2) if spec.adapter == "qlora" else (1, 2, 3)
    return predict_model(step, config, sequence_length, scaling, hardware, adapt, stages)
