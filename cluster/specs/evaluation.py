"""Specs of evaluation, comparison and export."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.spec import Spec
from cluster.specs.training import MODELS


class EvaluationSpec(Spec, frozen=True):
    """Held-out loss of a model, beside compressors that saw the same bytes, and sample completions."""

    kind: ClassVar[str] = "evaluation"
    stage: ClassVar[str] = "pipelines.evaluation.stage:build"
    inputs: ClassVar[dict[str, str]] = {"model": "pretrain", "tokens": "tokens", "corpus": "corpus"}

    heldout_bytes: Annotated[int, Meta(ge=0)] = 0
    """Held-out text to score: whole documents in corpus order, as many as begin within; 0 scores all."""
    stride_tokens: Annotated[int, Meta(ge=0)] = 0
    """Step of the sliding window in tokens, each token scored once with at least the rest as context; 0: half."""
    ngram_order: Annotated[int, Meta(ge=1, le=8)] = 5
    """Order of the byte n-gram model (interpolated Witten-Bell) that the model is compared with."""
    prompts: tuple[str, ...] = ("def fibonacci(n):\n", "import os\n\n\ndef read_")
    """Beginnings that the model completes."""
    completion_tokens: Annotated[int, Meta(ge=1)] = 64
    """Length of each completion."""


class ExportSpec(Spec, frozen=True):
    """A model as a Hugging Face folder: safetensors, tokenizer, and a model card written from the lineage."""

    kind: ClassVar[str] = "model"
    stage: ClassVar[str] = "pipelines.export.stage:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "evaluation": "evaluation"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("evaluation",)

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numbers that the weights are stored in."""


class ComparisonSpec(Spec, frozen=True):
    """The models of one line side by side, each through the engine that serves it."""

    kind: ClassVar[str] = "comparison"
    stage: ClassVar[str] = "pipelines.evaluation.comparison:build"
    inputs: ClassVar[dict[str, str]] = {
        "base": MODELS,
        "sft": MODELS,
        "rlhf": MODELS,
        "int8": MODELS,
        "prompts": "conversations",
        "corpus": "corpus",
        "reward": "reward",
    }
    optional_inputs: ClassVar[tuple[str, ...]] = ("base", "sft", "rlhf", "int8", "reward")

    prompts: Annotated[int, Meta(ge=1)] = 256
    """Held-out prompts that each model answers, one completion each, at temperature 1."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] = 128
    """Longest completion."""
    heldout_bytes: Annotated[int, Meta(ge=1)] = 100_000
    """Held-out text that bits per byte are taken over: whole documents, as many as begin within."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the samples."""
