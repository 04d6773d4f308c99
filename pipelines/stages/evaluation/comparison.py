"""The comparison stage: the models of one line side by side, each through the engine that serves it.

Every model answers the same held-out prompts with the same seeds and reads the same held-out text. On CPUs one process
takes one model after the other, since most of an engine's start is importing it; GPUs get a fresh process for each.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import ray
from transformers import AutoTokenizer

from cluster.control.failures import explained
from cluster.control.runtime import connect, require_gpus
from cluster.core.context import Context
from cluster.core.encoding import Refused, prompt_tokens
from cluster.core.errors import InputError
from cluster.core.model_files import context_tokens, read_config
from cluster.core.storage.artifact import Artifact
from pipelines.specs import ComparisonSpec
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.python_parses import PythonParses
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.evaluation.loss import Window, windows
from pipelines.stages.evaluation.stage import beginning, heldout_texts
from pipelines.stages.generation.engine import (
    INITIAL,
    Completion,
    EngineOptions,
    GenerationEngine,
    engine_dtype,
    engine_options,
    engine_runtime_env,
)
from pipelines.stages.training.loop import mix
from pipelines.stages.tuning.conversations import Row, read_conversations
from pipelines.stages.tuning.templates import as_served

MODELS = ("base", "sft", "rlhf", "int8")
WEIGHTS = ".safetensors"
UNBOUNDED_TOKENS = 2048  # the context of a model that any length suits
SPEED_PROMPTS = 32  # answered at once when speed is measured


@dataclass(frozen=True)
class Exam:
    """What one model is asked: prompts and texts as its own token ids."""

    prompts: list[list[int]]
    seeds: list[int]
    max_completion_tokens: int
    eos_token_id: int
    windows: list[Window]


@dataclass(frozen=True)
class Sheet:
    """What it answered: completions, the nats of the texts, and how fast it wrote."""

    completions: list[Completion]
    nats: float
    tokens_per_second: float


class Examiner:
    """An actor that opens models one after another and puts an exam to each."""

    def examine(self, artifact: Artifact, options: EngineOptions, exam: Exam) -> Sheet:
        engine = GenerationEngine(artifact, options)
        asked: dict[str, Any] = {"max_tokens": exam.max_completion_tokens, "temperature": 1.0}
        completions = engine.generate(INITIAL, exam.prompts, seeds=exam.seeds, eos_token_id=exam.eos_token_id, **asked)
        # Speed on answers of one length: else the model that says least would look slowest.
        began = time.monotonic()
        engine.generate(
            INITIAL, exam.prompts[:SPEED_PROMPTS], seeds=exam.seeds[:SPEED_PROMPTS], eos_token_id=None, **asked
        )
        seconds = time.monotonic() - began
        scores = engine.score([window.tokens.tolist() for window in exam.windows])
        nats = -sum(sum(score[window.skip :]) for score, window in zip(scores, exam.windows, strict=True))
        return Sheet(completions, nats, len(exam.prompts[:SPEED_PROMPTS]) * exam.max_completion_tokens / seconds)


def build(ctx: Context[ComparisonSpec]) -> dict[str, Any]:
    """Write comparison.json and samples.jsonl. Returns the rows of the table by model."""
    spec, folder = ctx.spec, ctx.inputs["prompts"].local()
    models = {name: ctx.inputs[name] for name in MODELS if name in ctx.inputs}
    if not models:
        raise InputError("comparison: no model is given", f"Give some of {', '.join(MODELS)}.")
    tokenizers = {name: AutoTokenizer.from_pretrained(model.local()) for name, model in models.items()}
    for tokenizer in tokenizers.values():
        as_served(tokenizer)
    asked = read_conversations(folder, "heldout")[: spec.prompts]
    requests, prompts, refused = ask_all(tokenizers, asked)
    texts = beginning(heldout_texts(ctx.inputs["corpus"].local()), spec.heldout_bytes)
    begin = next(iter(tokenizers.values())).eos_token
    connect(ctx.scaling)
    table: dict[str, Any] = {}
    samples = []
    examiner: Any = None
    try:
        for number, (name, model) in enumerate(models.items()):
            ctx.progress(number, len(models), "models")
            tokenizer = tokenizers[name]
            exam, options = set_exam(model, tokenizer, prompts[name], texts, begin, ctx)
            if examiner is None or options.gpus:
                examiner = _start(options)
            sheet = _examine(examiner, model, options, exam, ctx.scaling.rollout_timeout_seconds)
            if options.gpus:
                ray.kill(examiner)
            graded = [
                Sample.of(tokenizer, messages, completion)
                for messages, completion in zip(requests, sheet.completions, strict=True)
            ]
            table[name] = {
                "model": model.record.ref,
                "bits_per_byte": round(sheet.nats / math.log(2) / sum(map(len, texts)), 4),
                "python_parses": round(float(np.mean([PythonParses().of(sample) for sample in graded])), 4),
                "reward": mean_reward(ctx, graded),
                "size_bytes": sum(e.size_bytes for n, e in model.record.files.items() if _is_weights(n)),
                "tokens_per_second": round(sheet.tokens_per_second, 1),
            }
            samples += [
                {"model": name, "messages": s.messages, "answer": s.answer, "finished": s.finished} for s in graded[:8]
            ]
    finally:
        if examiner is not None:
            ray.kill(examiner)
    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
    ctx.output.write_bytes("samples.jsonl", "".join(lines).encode())
    ctx.output.write_bytes("comparison.json", (json.dumps(table, indent=2) + "\n").encode())
    counts = {"prompts": len(requests), "refused": refused, "heldout_bytes": sum(map(len, texts))}
    return counts | {"models": table}


def ask_all(
    tokenizers: Mapping[str, Any], rows: Sequence[Row]
) -> tuple[list[Any], dict[str, list[list[int]]], dict[str, int]]:
    """What comes before the first answer of each row: as messages, as token ids by model, and how many rows are left
    out for which reason. A row is left out for all models where the template of one refuses it.

    Raises Refused where no row is left.
    """
    requests: list[Any] = []
    prompts: dict[str, list[list[int]]] = {name: [] for name in tokenizers}
    refusals = []
    for row in rows:
        messages = list(takewhile(lambda message: message["role"] != "assistant", row["messages"]))
        try:
            found = {name: prompt_tokens(each, messages, row.get("tools")) for name, each in tokenizers.items()}
        except Refused as error:
            refusals.append(error)
            continue
        requests.append(messages)
        for name, tokens in found.items():
            prompts[name].append(tokens)
    if refusals and not requests:
        raise refusals[0]
    return requests, prompts, dict(Counter(error.reason for error in refusals).most_common())


def set_exam(
    model: Artifact, tokenizer: Any, prompts: list[list[int]], texts: list[bytes], begin: str, ctx: Context[Any]
) -> tuple[Exam, EngineOptions]:
    """The exam in a model's own tokens, and how to run it. A document begins after `begin`."""
    spec, scaling = ctx.spec, ctx.scaling
    config, longest = read_config(model), max(map(len, prompts)) + spec.max_completion_tokens
    limit = context_tokens(config) or max(longest, UNBOUNDED_TOKENS)
    if longest > limit:
        raise InputError(
            f"{model.record.ref}: a prompt and its answer may take {longest} tokens, the model {limit}",
            "Lower comparison.max_completion_tokens, or conversations.max_prompt_chars.",
        )
    encode = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
    documents = [np.array(tokenizer(text.decode(), **encode)["input_ids"], dtype=np.int64) for text in texts]
    context = limit - 2  # the engine wants room for one token more
    cut = [
        window
        for document in documents
        for window in windows(document, tokenizer.convert_tokens_to_ids(begin), context, context // 2)
    ]
    seeds = [mix(spec.seed, i) for i in range(len(prompts))]
    options = engine_options(scaling, limit, engine_dtype(scaling, config))
    return Exam(prompts, seeds, spec.max_completion_tokens, tokenizer.eos_token_id, cut), options


def mean_reward(ctx: Context[ComparisonSpec], samples: list[Sample]) -> float | None:
    """The reward model's mean score of the answers, as a probability; None without a reward model."""
    if "reward" not in ctx.inputs:
        return None
    model = RewardModel(ctx.inputs["reward"].local())
    scores = model.score_samples(samples)
    return round(float(np.mean(1 / (1 + np.exp(-np.array(scores))))), 4)


def _start(options: EngineOptions) -> Any:
    require_gpus(options.gpus)
    actor = ray.remote(Examiner).options(num_cpus=0, num_gpus=options.gpus, runtime_env=engine_runtime_env(options))
    return actor.remote()


def _examine(examiner: Any, model: Artifact, options: EngineOptions, exam: Exam, timeout_seconds: float) -> Sheet:
    try:
        sheet: Sheet = ray.get(examiner.examine.remote(model, options, exam), timeout=timeout_seconds)
    except ray.exceptions.RayError as error:
        raise explained(error, f"the engine of {model.record.ref}") from error
    return sheet


def _is_weights(name: str) -> bool:
    return name.endswith(WEIGHTS) and "/" not in name
