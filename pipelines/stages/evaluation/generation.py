"""The generation stage: what a model answers to held-out requests, measured against the answers that are there.

Answers come from the engine that serves the model (vLLM), and are written before they are scored: a run that was killed
while scoring does not ask again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import Any

from transformers import AutoTokenizer

from cluster.core.context import Context
from cluster.core.encoding import Refused, prompt_tokens
from cluster.core.errors import InputError
from pipelines.specs import GenerationSpec
from pipelines.stages.evaluation import overlap
from pipelines.stages.evaluation.results import RESULTS_FILE, SAMPLES_FILE, Results, encode_outcomes, encode_results
from pipelines.stages.generation.answers import answer
from pipelines.stages.tuning.conversations import read_conversations, read_lines, write_lines
from pipelines.stages.tuning.templates import as_served

TASK = "generation"
ANSWERS_FILE = "answers.jsonl"
PACKAGES = ("jieba", "nltk", "rouge-chinese", "rouge-score", "sacrebleu", "vllm")


def build(ctx: Context[GenerationSpec]) -> dict[str, Any]:
    """Write answers.jsonl (id, request, reference, answer), results.json and samples.jsonl. Returns the metrics."""
    overlap.require()  # before anything is generated
    if not ctx.output.exists(ANSWERS_FILE):
        write_lines(ctx.output, ANSWERS_FILE, _answers(ctx))
    rows = read_lines(ctx.output, ANSWERS_FILE)
    texts = [[row[name] for row in rows] for name in ("answer", "reference", "id")]
    results, outcomes = overlap.score(*texts, language=ctx.spec.language, task=TASK, seed=ctx.spec.seed)
    asked = json.dumps([[row["id"], row["request"], row["reference"]] for row in rows], ensure_ascii=False)
    report = Results(
        model=ctx.inputs["model"].record.ref,
        results=results,
        data_sha256={TASK: hashlib.sha256(asked.encode()).hexdigest()},
        versions=versions(PACKAGES),
    )
    ctx.output.write_bytes(SAMPLES_FILE, encode_outcomes(outcomes))
    ctx.output.write_bytes(RESULTS_FILE, encode_results(report))
    counts = {"prompts": len(rows), "refused": len(_asked(ctx)) - len(rows)}
    return {result.metric: round(result.value, 4) for result in results} | counts


def _asked(ctx: Context[GenerationSpec]) -> list[dict[str, Any]]:
    """The held-out conversations that end with an answer, as many as are asked for."""
    rows = [row for row in read_conversations(ctx.inputs["prompts"].local(), "heldout") if is_answered(row)]
    return rows[: ctx.spec.max_prompts or None]


def _answers(ctx: Context[GenerationSpec]) -> list[dict[str, Any]]:
    spec, model = ctx.spec, ctx.inputs["model"]
    asked = _asked(ctx)
    if not asked:
        raise InputError("generation: no held-out conversation ends with an answer", "Give other conversations.")
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    as_served(tokenizer)
    rows, prompts, refusal = [], [], None
    for row in asked:
        try:
            prompts.append(prompt_tokens(tokenizer, row["messages"][:-1], row.get("tools")))
            rows.append(row)
        except Refused as error:  # counted: `refused`
            refusal = error
    if not rows and refusal:
        raise refusal
    completions = answer(
        ctx,
        model,
        prompts,
        seed=spec.seed,
        max_tokens=spec.max_completion_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        eos_token_id=tokenizer.eos_token_id,
    )
    return [
        {
            "id": row["id"],
            "request": row["messages"][:-1],
            "reference": row["messages"][-1]["content"],
            "answer": tokenizer.decode(completion.tokens, skip_special_tokens=True).strip(),
        }
        for row, completion in zip(rows, completions, strict=True)
    ]


def is_answered(row: dict[str, Any]) -> bool:
    """Whether a conversation's last message is an answer."""
    return len(row["messages"]) > 1 and row["messages"][-1]["role"] == "assistant"


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions; vLLM's CPU build goes by a name of its own."""
    found = {}
    for package in packages:
        for name in (package, f"{package}-cpu"):
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found
