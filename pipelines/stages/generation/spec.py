"""Specs of evaluations by generation: answers compared with references, and programs that are run."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import File
from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import MODELS


class GenerationSpec(Spec, frozen=True):
    """Answers of a model to held-out requests, compared with the answers there: ROUGE-1, -2, -L and BLEU-4."""

    kind: ClassVar[str] = "generation"
    stage: ClassVar[str] = "pipelines.stages.evaluation.generation:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "prompts": "conversations"}

    language: Literal["english", "chinese"] = "english"
    """What is counted: `english` words; `chinese` characters and, apart from them, jieba's words."""
    max_prompts: Annotated[int, Meta(ge=0)] = 0
    """Held-out conversations to take, the first ones; 0 takes all. The last answer of each is the reference."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] = 256
    """Longest answer."""
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    """0 answers greedily."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Share of probability that tokens are drawn from, the likeliest first (Holtzman et al. 2020)."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the answers and of the confidence intervals' bootstrap."""


class HumanEvalSpec(Spec, frozen=True):
    """Programs that a model completes, run against their tests in a sandbox: pass@k (Chen et al. 2021)."""

    kind: ClassVar[str] = "humaneval"
    stage: ClassVar[str] = "pipelines.stages.evaluation.humaneval:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS}

    path: File = ""
    """HumanEval.jsonl, or another file of its fields (`task_id`, `prompt`, `entry_point`, `test`); `.gz` too."""
    max_problems: Annotated[int, Meta(ge=0)] = 0
    """Problems to take, the first ones; 0 takes all."""
    samples_per_problem: Annotated[int, Meta(ge=1)] = 1
    """Completions of each problem; pass@k is estimated from them without bias."""
    pass_at: tuple[Annotated[int, Meta(ge=1)], ...] = (1,)
    """The k of pass@k, each at most `samples_per_problem`."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] = 512
    """Longest completion; it ends before that where a stop sequence begins."""
    temperature: Annotated[float, Meta(ge=0)] = 0.0
    """0 completes greedily; published are 0.2 for pass@1 and 0.8 for pass@100 of 200 samples."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 0.95
    """Share of probability that tokens are drawn from; as published."""
    cpu_seconds: Annotated[int, Meta(ge=1)] = 10
    """CPU time of one program. CPU time and not wall time, as published (3 s), so that a busy machine fails nothing."""
    wall_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """Wall time of one program, its start included, for those that wait."""
    memory_bytes: Annotated[int, Meta(ge=1 << 26)] = 1 << 30
    """Memory of one program."""
    isolation: Literal["namespaces", "process"] = "namespaces"
    """`namespaces`: no network, no file but its own, and a machine that cannot isolate runs nothing; `process`: limits
    of time and memory alone, for machines that are themselves a sandbox."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the completions and of the confidence intervals' bootstrap."""

    def check(self) -> None:
        if not self.path:
            raise SpecError("humaneval.path: is empty", "Give HumanEval.jsonl.gz of the openai/human-eval repository.")
        if not self.pass_at or max(self.pass_at) > self.samples_per_problem:
            raise SpecError(
                f"humaneval.pass_at: {list(self.pass_at)} of {self.samples_per_problem} samples",
                "Raise humaneval.samples_per_problem.",
            )
        if self.temperature == 0 and self.samples_per_problem > 1:
            raise SpecError("humaneval.temperature: greedy samples are all the same", "Give 0.2 or 0.8.")
