"""The spec of a model's export."""

from __future__ import annotations

from typing import ClassVar, Literal

from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import MODELS


class ExportSpec(Spec, frozen=True):
    """A model as a Hugging Face folder: safetensors, tokenizer, and a model card written from the lineage."""

    kind: ClassVar[str] = "model"
    stage: ClassVar[str] = "pipelines.stages.export.stage:build"
    revision: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {"model": f"{MODELS}|reward", "evaluation": "evaluation"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("evaluation",)
    measured_inputs: ClassVar[tuple[str, ...]] = ("evaluation",)

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Numbers that the weights are stored in; `auto`: the model's own. A quantized model keeps its own anyway."""
