"""The SFT stage: encode the conversations, train on the assistant's words, and leave a model that chats.

All weights, low-rank updates (LoRA), or low-rank updates over an NF4 base (QLoRA); whichever it is, the artifact is a
whole Hugging Face folder with its chat template, so that what follows need not know.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from cluster.core.context import Context
from cluster.core.errors import InputError, SpecError
from cluster.core.model_files import fitting_tokens
from pipelines.specs import SftSpec
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import BatchPlan, plan_batches
from pipelines.stages.training.models.models import require_rows, require_trainable
from pipelines.stages.training.parallel.tensor_parallel import check_cut
from pipelines.stages.training.parallel.ulysses import check_shared
from pipelines.stages.training.stage import run_training
from pipelines.stages.training.telemetry.profiles import STATE
from pipelines.stages.tuning.conversations import read_conversations, read_lines, write_lines
from pipelines.stages.tuning.encoding import Encoded, Refused, end_of_turn_ids, examples
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.templates import missing, prepare

REFUSED_FILE = "refused.jsonl"  # conversations that the template cannot render, with the reasons
NOTHING_LEARNED = "finds no answer in it that is to be learned"
MOST_REFUSED = 0.5  # of a split; where a template refuses more, it is not the template for these conversations


def build(ctx: Context[SftSpec]) -> dict[str, Any]:
    """Fine-tune; a run that was killed goes on from its newest whole checkpoint.

    Raises SpecError and InputError before any cluster time, JobError where training fails.
    """
    spec = ctx.spec
    fields = require_trainable(ctx.inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(ctx.inputs["model"].local())
    if spec.adapter != "none":
        require_tokens(tokenizer, spec.template)
    prepare(tokenizer, spec.template)
    spec.check_scaling(ctx.scaling)
    if spec.adapter != "none":
        require_rows(ctx.inputs["model"], fields, tokenizer)
    longest = fitting_tokens(fields, spec.sequence_length)
    config = AutoConfig.from_pretrained(ctx.inputs["model"].local())
    check_shared(ctx.scaling.sequence_parallel_size, (), config, {})
    check_cut(ctx.scaling, spec, config)
    left_out: dict[str, int] = {}

    def plan() -> BatchPlan:
        sizes = {}
        refused: list[dict[str, str]] = []
        for split in ("train", "heldout"):
            encoded, of_split = encode_rows(ctx, tokenizer, split)
            refused += of_split
            sequences, left_out[split] = fitting(ctx, encoded, split, longest)
            sequences.save(ctx.output / STATE, f"{split}.npz")
            sizes[split] = len(sequences)
        write_lines(ctx.output, REFUSED_FILE, refused)
        steps = BatchSizes.of(spec).steps_to_see(math.ceil(spec.epochs * sizes["train"]))
        return plan_batches(spec, ctx.scaling, steps)

    def needs() -> dict[str, Any]:
        stops = end_of_turn_ids(tokenizer)
        return {
            "vocab_size": len(tokenizer),
            "eos_token_id": stops if len(stops) > 1 else stops[0],
            "left_out": left_out["train"],
        }

    figures = run_training(ctx, "pipelines.stages.tuning.recipe:sft", plan, tokenizer_files(tokenizer), needs)
    reasons = Counter(row["reason"] for row in read_lines(ctx.output, REFUSED_FILE) if row["split"] == "train")
    return figures | {"refused": dict(reasons.most_common())}


def require_tokens(tokenizer: Any, template: str) -> None:
    """Raise SpecError where a template writes tokens that the model does not have, and that an adapter cannot learn."""
    if absent := missing(tokenizer, template):
        raise SpecError(
            f"sft.template: {template} needs {', '.join(absent)}, which the model's tokenizer does not have and an "
            "adapter does not learn",
            "Choose `alpaca` or `completion`, or `adapter: none`, which adds them.",
        )


def encode_rows(ctx: Context[SftSpec], tokenizer: Any, split: str) -> tuple[list[Encoded], list[dict[str, str]]]:
    """The examples of a split, and the conversations that the template refuses (id, split, reason).

    Raises InputError where it refuses more than half of them.
    """
    rows = read_conversations(ctx.inputs["conversations"].local(), split)
    encoded: list[Encoded] = []
    refused: list[dict[str, str]] = []
    for row in rows:
        try:
            found = examples(tokenizer, row["messages"], row.get("tools"))
        except Refused as error:
            refused.append({"id": row["id"], "split": split, "reason": error.reason})
            continue
        encoded += found
        if not found:
            refused.append({"id": row["id"], "split": split, "reason": NOTHING_LEARNED})
    if len(refused) > MOST_REFUSED * len(rows):
        reason, count = Counter(row["reason"] for row in refused).most_common(1)[0]
        raise InputError(
            f"{ctx.inputs['conversations'].record.ref}: the chat template cannot render {len(refused)} of {len(rows)} "
            f"{split} conversations; of {count} it {reason}",
            "Choose another sft.template, or leave them out; `ctl tune preview` shows what is learned.",
        )
    return encoded, refused


def fitting(ctx: Context[SftSpec], encoded: list[Encoded], split: str, longest: int) -> tuple[Sequences, int]:
    """The examples of a split that are not too long, and how many are."""
    kept = [example for example in encoded if len(example.tokens) <= longest]
    if not kept:
        raise InputError(
            f"{ctx.inputs['conversations'].record.ref}: no {split} conversation fits into {longest} tokens "
            f"({len(encoded)} are there)",
            "Raise sft.sequence_length (or take a model of a longer context), or give more conversations.",
        )
    return Sequences.collect(kept), len(encoded) - len(kept)


def tokenizer_files(tokenizer: Any) -> Iterator[tuple[str, bytes]]:
    """The files of a tokenizer, chat template included."""
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            yield path.name, path.read_bytes()
