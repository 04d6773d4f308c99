"""The SFT stage: encode the conversations, train on the assistant's words, and leave a model that chats.

What is trained is up to the spec's method (methods/). Where it can be merged, the artifact is a whole Hugging Face
folder with its chat template, so that what follows need not know; else it is an adapter over the model that it was made
from.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from cluster.core.context import Context
from cluster.core.encoding import end_of_turn_ids
from cluster.core.errors import SpecError
from cluster.core.model_files import fitting_tokens
from pipelines.specs import SftSpec
from pipelines.stages.corpus.chunks import keyed_hash
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import BatchPlan, plan_batches
from pipelines.stages.training.models.models import require_rows, require_trainable
from pipelines.stages.training.parallel.tensor_parallel import check_cut
from pipelines.stages.training.parallel.ulysses import check_shared
from pipelines.stages.training.spec import VALIDATION
from pipelines.stages.training.stage import run_training
from pipelines.stages.training.telemetry.profiles import STATE
from pipelines.stages.tuning.attention import check_packing
from pipelines.stages.tuning.conversations import Row, read_conversations, read_lines, write_lines
from pipelines.stages.tuning.encoder import Encoder
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.spec import REPLAY
from pipelines.stages.tuning.templates import missing, prepare
from pipelines.stages.tuning.truncation import Fitting

REFUSED_FILE = "refused.jsonl"  # conversations that the template cannot render, with the reasons


def build(ctx: Context[SftSpec]) -> dict[str, Any]:
    """Fine-tune; a run that was killed goes on from its newest whole checkpoint.

    Raises SpecError and InputError before any cluster time, JobError where training fails.
    """
    spec = ctx.spec
    spec.check_inputs(ctx.inputs)
    fields = require_trainable(ctx.inputs["model"])
    tokenizer = AutoTokenizer.from_pretrained(ctx.inputs["model"].local())
    config = AutoConfig.from_pretrained(ctx.inputs["model"].local())
    learns_rows = spec.method.learns_rows(config.get_text_config().tie_word_embeddings)
    if not learns_rows:
        require_tokens(tokenizer, spec)
    prepare(tokenizer, spec.template)
    spec.check_scaling(ctx.scaling)
    if not learns_rows:
        require_rows(ctx.inputs["model"], fields, tokenizer)
    spec.method.check_model(config)
    virtual = spec.method.virtual_tokens  # they have places in the context, too
    longest = fitting_tokens(fields, spec.sequence_length + virtual) - virtual
    check_shared(ctx.scaling.sequence_parallel_size, (), config, {})
    check_cut(ctx.scaling, spec, config)
    if spec.packing:
        check_packing(config)
    told: dict[str, Any] = {}

    def plan() -> BatchPlan:
        splits = {name: encode_split(ctx, tokenizer, name, longest) for name in ("train", "heldout", *others(ctx))}
        write_lines(ctx.output, REFUSED_FILE, [row for one in splits.values() for row in one.refused])
        conversations, counts = splits["train"].sequences, splits["train"].counts
        if spec.replay_fraction:
            counts["replayed"] = splits["train"].replayed
        rows = {n: one.sequences.packed(longest) if spec.packing else one.sequences for n, one in splits.items()}
        for name, sequences in rows.items():
            sequences.save(ctx.output / STATE, f"{name}.npz")
        train = rows["train"]
        batches = plan_batches(spec, ctx.scaling, BatchSizes.of(spec).steps_to_see(math.ceil(spec.epochs * len(train))))
        told.update(counts, padding_share=train.padding_share(spec.seed, batches.micro_batch))
        if spec.packing:
            unpacked = conversations.padding_share(spec.seed, batches.micro_batch)
            told.update(rows=len(train), padding_share_unpacked=unpacked)
        return batches

    def needs() -> dict[str, Any]:
        stops = end_of_turn_ids(tokenizer)
        return {
            "vocab_size": len(tokenizer),
            "eos_token_id": stops if len(stops) > 1 else stops[0],
            "told": told,
        }

    figures = run_training(ctx, "pipelines.stages.tuning.recipe:sft", plan, tokenizer_files(tokenizer), needs)
    reasons = Counter(row["reason"] for row in read_lines(ctx.output, REFUSED_FILE) if row["split"] == "train")
    return figures | {"refused": dict(reasons.most_common())}


@dataclass(frozen=True)
class Split:
    """The examples of a split, how many conversations became what (truncation.py), and those that the template
    refused: id, split, reason."""

    sequences: Sequences
    counts: dict[str, int]
    refused: list[dict[str, str]]
    replayed: int


def require_tokens(tokenizer: Any, spec: SftSpec) -> None:
    """Raise SpecError where a template writes tokens that the model does not have and that the method cannot learn."""
    if absent := missing(tokenizer, spec.template):
        raise SpecError(
            f"sft.template: {spec.template} needs {', '.join(absent)}, which the model's tokenizer does not have and "
            f"{spec.method.name} does not learn",
            "Choose `alpaca` or `completion`, or `method: {type: full}`, which adds them, or a method with `also: "
            "[embeddings, head]`.",
        )


def others(ctx: Context[SftSpec]) -> list[str]:
    """The inputs that are validated on besides."""
    return sorted(name for name in ctx.inputs if name.startswith(VALIDATION))


def encode_split(ctx: Context[SftSpec], tokenizer: Any, split: str, longest: int) -> Split:
    """The conversations of a split, in `longest` tokens each; of the held-out split those that are validated on, as of
    another input by its name.

    Raises InputError where nothing fits, where the template refuses most, and as `sft.too_long` says.
    """
    given = ctx.inputs[split if split in ctx.inputs else "conversations"]
    name, encoder = f"{given.record.ref}, {split}", Encoder(tokenizer)
    rows = read_conversations(given.local(), "train" if split == "train" else "heldout")
    again = replayed(ctx, len(rows)) if split == "train" else []
    fitting = Fitting(encoder, longest, ctx.spec.too_long, encoder.refused)
    limit = None if split == "train" else ctx.spec.validation_sequences
    sequences = Sequences.collect(chain.from_iterable(islice(fitting.examples(rows + again), limit)))
    encoder.require(name)
    fitting.require(name)
    refused = [{"id": id, "split": split, "reason": reason} for id, reason in encoder.refused.items()]
    return Split(sequences, dict(fitting.counts), refused, len(again))


def replayed(ctx: Context[SftSpec], count: int) -> list[Row]:
    """What is learned again beside `count` conversations: of each set as many, the first in the order of a hash."""
    names, share = sorted(name for name in ctx.inputs if name.startswith(REPLAY)), ctx.spec.replay_fraction
    wanted = round(count * share / (1 - share) / len(names)) if names else 0
    found = []
    for name in names:
        rows = read_conversations(ctx.inputs[name].local(), "train")
        rows.sort(key=lambda row: (keyed_hash(ctx.spec.seed, REPLAY, row["id"]), row["id"]))
        found += [row | {"id": f"{name}/{row['id']}"} for row in rows[:wanted]]
    return found


def tokenizer_files(tokenizer: Any) -> Iterator[tuple[str, bytes]]:
    """The files of a tokenizer, chat template included."""
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            yield path.name, path.read_bytes()
