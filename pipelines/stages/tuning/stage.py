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
from pipelines.stages.tuning.encoder import Encoder
from pipelines.stages.tuning.encoding import end_of_turn_ids
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.templates import missing, prepare

REFUSED_FILE = "refused.jsonl"  # conversations that the template cannot render, with the reasons


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
            sequences, left_out[split], of_split = encode_split(ctx, tokenizer, split, longest)
            refused += of_split
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


def encode_split(
    ctx: Context[SftSpec], tokenizer: Any, split: str, longest: int
) -> tuple[Sequences, int, list[dict[str, str]]]:
    """The examples of a split that are not too long, how many are, and the conversations that the template refuses."""
    name, encoder = ctx.inputs["conversations"].record.ref, Encoder(tokenizer)
    rows = read_conversations(ctx.inputs["conversations"].local(), split)
    encoded = [example for row in rows for example in encoder(row)]
    encoder.require(f"{name}, {split}")
    kept = [example for example in encoded if len(example.tokens) <= longest]
    if not kept:
        raise InputError(
            f"{name}: no {split} conversation fits into {longest} tokens ({len(encoded)} are there)",
            "Raise sft.sequence_length (or take a model of a longer context), or give more conversations.",
        )
    refused = [{"id": id, "split": split, "reason": reason} for id, reason in encoder.refused.items()]
    return Sequences.collect(kept), len(encoded) - len(kept), refused


def tokenizer_files(tokenizer: Any) -> Iterator[tuple[str, bytes]]:
    """The files of a tokenizer, chat template included."""
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            yield path.name, path.read_bytes()
