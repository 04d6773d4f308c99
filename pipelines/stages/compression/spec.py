"""Specs of compression."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import CONVERSATIONS, MODELS


class QuantizeSpec(Spec, frozen=True):
    """A model with weights of few bits, in the compressed-tensors format that vLLM serves on CPUs and GPUs."""

    kind: ClassVar[str] = "quantized"
    stage: ClassVar[str] = "pipelines.stages.compression.stage:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "conversations": CONVERSATIONS}
    optional_inputs: ClassVar[tuple[str, ...]] = ("conversations",)
    measured_inputs: ClassVar[tuple[str, ...]] = ("conversations",)

    scheme: Literal["int8", "int4"] = "int8"
    """`int8`: weights per channel, activations per token; `int4`: weights in groups, activations as they are."""
    group_size: Literal[32, 64, 128] = 32
    """Weights that share a scale (`int4` only); it must divide the width of every layer."""
    report_conversations: Annotated[int, Meta(ge=1)] = 64
    """Held-out conversations that the quality report is made on."""
    report_tokens: Annotated[int, Meta(ge=1)] = 32
    """Greedy tokens per conversation that are compared with the original's."""
