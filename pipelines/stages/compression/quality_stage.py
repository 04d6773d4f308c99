"""The quality stage: a table of what compressed models save and cost, each asked through the engine that serves it.

The original is asked as it is served on CPUs, in float32, which the others are compared with, and in bfloat16, whose
size is the usual measure. Tuning is measured for the formats that can be tuned over: low-rank updates of the original
in bfloat16, and of its copies that bitsandbytes packs in 8 and 4 bits (QLoRA).
"""

from __future__ import annotations

import json
from typing import Any

from cluster.control.runtime import connect
from cluster.core.adapters import over_transformers, require_whole
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.integers import QUANTIZATION
from cluster.core.model_files import read_config
from cluster.core.storage.artifact import Artifact
from pipelines.specs import QualitySpec
from pipelines.stages.compression.paired import Change
from pipelines.stages.compression.plain_engine import PlainEngine
from pipelines.stages.compression.quality import KV_CACHE_GIB, Agreement, Answers, ask, read_questions
from pipelines.stages.compression.stage import size_bytes
from pipelines.stages.compression.tuning_memory import measure
from pipelines.stages.generation.engine import GenerationEngine

ORIGINAL, HALF = "float32", "bfloat16"  # the rows of the original
REPORT_FILE, TABLE_FILE = "quality.json", "quality.md"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# What is tuned over for a model of a scheme, as bitsandbytes packs it; nothing tunes over the integers that vLLM
# serves.
TUNED_OVER = {HALF: "lora", "int8": "int8", "nf4": "nf4"}
COLUMNS = (
    ("model", "name"),
    ("weights, MB", "size_bytes"),
    ("of bfloat16's", "size"),
    ("inference, MiB", "resident_bytes"),
    ("tuning, MiB", "tuning_bytes"),
    ("perplexity", "perplexity"),
    ("change", "perplexity_change"),
    ("95 % of it", "perplexity_change_interval"),
    ("equal tokens", "equal_tokens"),
    ("tokens/s", "tokens_per_second"),
)


def build(ctx: Context[QualitySpec]) -> dict[str, Any]:
    """Write quality.json and quality.md, a row a model; returns the rows by name."""
    given = {name: artifact for name, artifact in ctx.inputs.items() if name not in ("original", "conversations")}
    models = {name: artifact for name, artifact in given.items() if artifact.kind != "benchmark"}
    original = ctx.inputs["original"]
    for model in (original, *models.values()):
        require_whole(model)
    tasks = tasks_of([artifact for artifact in given.values() if artifact.kind == "benchmark"], original, models)
    questions = read_questions(original.local(), ctx.inputs["conversations"], ctx.spec)
    connect(ctx.scaling)
    asked = {ORIGINAL: (original, ORIGINAL), HALF: (original, HALF)}
    asked |= {name: (model, HALF) for name, model in models.items()}
    rows: dict[str, dict[str, Any]] = {}
    reference: Answers | None = None
    for number, (name, (model, dtype)) in enumerate(asked.items()):
        ctx.progress(number, len(asked), "models asked")
        engine = PlainEngine if over_transformers(model) else GenerationEngine
        answers = ask(name, model, dtype, questions, ctx.scaling, engine)
        reference = reference or answers
        rows[name] = row(answers, reference) | {
            "artifact": model.record.ref,
            "engine": "transformers" if engine is PlainEngine else "vllm",
            "size_bytes": weight_bytes(model, dtype),
            **({"tasks": tasks[model.fingerprint]} if model.fingerprint in tasks else {}),
        }
        if ctx.spec.tuning_tokens and (method := TUNED_OVER.get(str(model.spec.get("scheme", dtype)))):
            tuned = measure(original.local(), method, ctx.spec.tuning_tokens)
            rows[name] |= {"tuning_bytes": tuned["peak_bytes"], "tuning_method": method}
    for found in rows.values():
        found["size"] = round(found["size_bytes"] / rows[HALF]["size_bytes"], 4)
    report = {
        "kv_cache_bytes": int(KV_CACHE_GIB * 2**30),
        "conversations": len(questions.prompts),
        "left_out": questions.left_out,
        "scored_tokens": sum(sum(encoded.learn[1:]) for encoded in questions.whole),
        "models": rows,
    }
    ctx.output.write_bytes(REPORT_FILE, (json.dumps(report, indent=2) + "\n").encode())
    ctx.output.write_bytes(TABLE_FILE, table(rows).encode())
    return report


def row(answers: Answers, reference: Answers) -> dict[str, Any]:
    """The figures of one model, beside those of the original."""
    agreement = Agreement.of(reference, answers)
    change = Change.of(reference.nats, answers.nats)
    return {
        "perplexity": answers.perplexity,
        "perplexity_change": round(change.share, 4),
        "perplexity_change_interval": change.interval and [round(end, 4) for end in change.interval],
        "equal_tokens": agreement.equal_tokens,
        "identical_completions": agreement.identical_completions,
        "resident_bytes": answers.resident_bytes,
        "tokens_per_second": answers.tokens_per_second,
    }


def weight_bytes(model: Artifact, dtype: str) -> int:
    """The weights as an engine holds them."""
    config, stored = read_config(model), size_bytes(model.location)
    if QUANTIZATION in config:
        return stored
    own = str(config.get("dtype") or config.get("torch_dtype") or ORIGINAL)
    return stored * BYTES[dtype] // BYTES[own]


def tasks_of(
    benchmarks: list[Artifact], original: Artifact, models: dict[str, Artifact]
) -> dict[str, dict[str, float]]:
    """What benchmarks say of models, by the fingerprint of the model. Raises InputError for one of another model."""
    known = {model.fingerprint for model in (original, *models.values())}
    found: dict[str, dict[str, float]] = {}
    for benchmark in benchmarks:
        model = benchmark.record.parents["model"]
        if model.fingerprint not in known:
            raise InputError(
                f"{benchmark.record.ref} is a benchmark of {model.ref}, which is not in the table",
                "Give that model as well, or leave the benchmark out.",
            )
        found.setdefault(model.fingerprint, {}).update(benchmark.metrics)
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    tasks = sorted({task for found in rows.values() for task in found.get("tasks", {})})
    heads = [head for head, _ in COLUMNS] + tasks
    lines = [heads, ["---"] * len(heads)]
    for name, found in rows.items():
        cells = [_cell(key, name if key == "name" else found.get(key)) for _, key in COLUMNS]
        lines.append(cells + [_cell("task", found.get("tasks", {}).get(task)) for task in tasks])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key == "size_bytes":
        return f"{value / 1e6:,.0f}"
    if key.endswith("_bytes"):
        return f"{value / 2**20:,.0f}"
    if key in ("size", "equal_tokens"):
        return f"{value:.0%}"
    if key == "perplexity_change":
        return f"{value:+.2%}"
    if key == "perplexity_change_interval":
        return f"{value[0]:+.2%} to {value[1]:+.2%}"
    return f"{value:.3f}" if isinstance(value, float) and key != "tokens_per_second" else str(value)
