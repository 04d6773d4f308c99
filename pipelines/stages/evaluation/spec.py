"""Specs of evaluations: by loss, by tasks, by generation, by programs that are run, and of models side by side."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import File
from cluster.core.specs.spec import Spec
from pipelines.stages.generation.endpoint import ChatEndpoint
from pipelines.stages.training.spec import CONVERSATIONS, MODELS, WRITERS


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
    inputs: ClassVar[dict[str, str]] = {"model": WRITERS, "tokens": "tokens"}

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
    inputs: ClassVar[dict[str, str]] = {"model": WRITERS}

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


class ComparisonSpec(Spec, frozen=True):
    """The models of one line side by side, each through the engine that serves it."""

    kind: ClassVar[str] = "comparison"
    stage: ClassVar[str] = "pipelines.stages.evaluation.comparison:build"
    inputs: ClassVar[dict[str, str]] = {
        "base": MODELS,
        "sft": MODELS,
        "rlhf": MODELS,
        "int8": MODELS,
        "prompts": CONVERSATIONS,
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


class GenerationSpec(Spec, frozen=True):
    """Answers of a model to held-out requests, compared with the answers there: ROUGE-1, -2, -L and BLEU-4."""

    kind: ClassVar[str] = "generation"
    stage: ClassVar[str] = "pipelines.stages.evaluation.generation:build"
    revision: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {"model": WRITERS, "prompts": CONVERSATIONS}

    language: Literal["english", "chinese"] = "english"
    """What is counted: `english` words; `chinese` characters, apart from them jieba's words, and both as ChatGLM's
    evaluate.sh does."""
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


class JudgementSpec(Spec, frozen=True):
    """The answers of two models to the same requests, judged in pairs by a third: win rate and ties."""

    kind: ClassVar[str] = "judgement"
    stage: ClassVar[str] = "pipelines.stages.evaluation.judgement:build"
    inputs: ClassVar[dict[str, str]] = {"answers": "generation", "baseline": "generation"}

    endpoint: ChatEndpoint = ChatEndpoint(temperature=0.0, max_completion_tokens=1024)
    """Who judges."""
    criteria: str = "whether it does what was asked, is right, is helpful, and is clear"
    """What the judge is told to look at."""
    with_reference: bool = True
    """Show the judge the answer that the conversations have."""
    max_prompts: Annotated[int, Meta(ge=0)] = 0
    """Requests to judge, the first ones; 0 takes all. Each is judged twice, the answers in either order."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the judge's answers."""

    def check(self) -> None:
        self.endpoint.check("judgement.endpoint")


class HumanEvalSpec(Spec, frozen=True):
    """Programs that a model completes, run against their tests in a sandbox: pass@k (Chen et al. 2021)."""

    kind: ClassVar[str] = "humaneval"
    stage: ClassVar[str] = "pipelines.stages.evaluation.humaneval:build"
    inputs: ClassVar[dict[str, str]] = {"model": WRITERS}

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
