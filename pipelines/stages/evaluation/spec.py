"""Specs of evaluation, comparison and export."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import File
from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import MODELS


class EvaluationSpec(Spec, frozen=True):
    """Held-out loss of a model, beside compressors that saw the same bytes, and sample completions."""

    kind: ClassVar[str] = "evaluation"
    stage: ClassVar[str] = "pipelines.stages.evaluation.stage:build"
    revision: ClassVar[int] = 2
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


class PerplexitySpec(Spec, frozen=True):
    """Perplexity and bits per byte of any model on the documents of any token store that its tokenizer made."""

    kind: ClassVar[str] = "perplexity"
    stage: ClassVar[str] = "pipelines.stages.evaluation.perplexity:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "tokens": "tokens"}

    split: Literal["heldout", "train"] = "heldout"
    """Split of the token store to score."""
    max_documents: Annotated[int, Meta(ge=0)] = 0
    """Documents to score, the first ones; 0 scores all."""
    context_tokens: Annotated[int, Meta(ge=0)] = 0
    """Longest context; 0: as long as the store's sequences, within what the model has been made for."""
    stride_tokens: Annotated[int, Meta(ge=0)] = 0
    """Step of the sliding window in tokens, each token scored once with at least the rest as context; 0: half."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the bootstrap that makes the confidence intervals."""


class BenchmarkSpec(Spec, frozen=True):
    """Tasks of lm-eval (EleutherAI's evaluation harness) put to a model, by its own prompts and metrics."""

    kind: ClassVar[str] = "benchmark"
    stage: ClassVar[str] = "pipelines.stages.evaluation.benchmark:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS}

    tasks: tuple[str, ...] = ("lambada_openai", "arc_easy")
    """Tasks or groups by lm-eval's names, such as `arc_easy` or `mmlu`."""
    data: File = ""
    """Folder that is searched for the tasks' data in the files they are published in (docs/evaluation.md lists
    them); empty: lm-eval loads them from the Hugging Face hub."""
    num_fewshot: Annotated[int, Meta(ge=0)] | None = None
    """Solved examples before each question; none given: as the task says, which is mostly 0."""
    limit: Annotated[int, Meta(ge=0)] = 0
    """Questions of each task, the first ones; 0 asks all."""
    apply_chat_template: bool = False
    """Ask in the model's chat template, each question as a user's message."""
    batch_size: Annotated[int, Meta(ge=1)] = 8
    """Sequences of one forward pass. Padding changes the last digits, so it is part of the result."""
    max_length: Annotated[int, Meta(ge=0)] = 0
    """Longest sequence in tokens, older ones are cut off; 0: what the model has been made for."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numbers that the model runs in; `auto`: those that it is stored in."""
    seed: Annotated[int, Meta(ge=0)] = 1234
    """Seed of the choice of solved examples and of the bootstrap that makes confidence intervals."""

    def check(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise SpecError("benchmark.tasks: name one task or more, each once", "Write `tasks: [arc_easy]`.")


class ExportSpec(Spec, frozen=True):
    """A model as a Hugging Face folder: safetensors, tokenizer, and a model card written from the lineage."""

    kind: ClassVar[str] = "model"
    stage: ClassVar[str] = "pipelines.stages.export.stage:build"
    revision: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {"model": f"{MODELS}|reward", "evaluation": "evaluation"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("evaluation",)
    measured_inputs: ClassVar[tuple[str, ...]] = ("evaluation",)

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numbers that the weights are stored in; a quantized model keeps its own."""


class ComparisonSpec(Spec, frozen=True):
    """The models of one line side by side, each through the engine that serves it."""

    kind: ClassVar[str] = "comparison"
    stage: ClassVar[str] = "pipelines.stages.evaluation.comparison:build"
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
