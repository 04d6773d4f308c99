"""The stage of offline preference optimization: encode the pairs, look their reference up, train, leave a model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoTokenizer

from cluster.core.context import Context
from cluster.core.encoding import end_of_turn_ids
from cluster.core.model_files import fitting_tokens
from pipelines.specs import DpoSpec
from pipelines.stages.alignment.offline.answers import AnswerReader, AnswerSet
from pipelines.stages.alignment.offline.batches import PreferenceBatches
from pipelines.stages.alignment.offline.objective import Preference
from pipelines.stages.alignment.offline.reference import ReferenceLogprobs, require_tokens
from pipelines.stages.alignment.offline.spec import REFERENCE
from pipelines.stages.alignment.preferences import read_preferences
from pipelines.stages.training.batch_sizes import BatchSizes
from pipelines.stages.training.batches import BatchPlan, plan_batches
from pipelines.stages.training.models.models import require_rows, require_trainable
from pipelines.stages.training.stage import run_training
from pipelines.stages.training.telemetry.profiles import STATE
from pipelines.stages.training.worker import Parts, Work
from pipelines.stages.tuning.recipe import load_with_rows, trained_parameters, writer
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.stage import tokenizer_files
from pipelines.stages.tuning.templates import prepare


def build(ctx: Context[DpoSpec]) -> dict[str, Any]:
    """Tune on preferences; a run that was killed goes on from its newest whole checkpoint.

    Raises SpecError and InputError before any cluster time, JobError where training fails.
    """
    spec, model = ctx.spec, ctx.inputs["model"]
    spec.check_inputs(ctx.inputs)
    spec.check_scaling(ctx.scaling)
    fields = require_trainable(model)
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    config = AutoConfig.from_pretrained(model.local())
    # A reference knows no rows that are drawn when training starts.
    adds_tokens = not spec.loss.compares_with_start and spec.method.learns_rows(
        config.get_text_config().tie_word_embeddings
    )
    if not adds_tokens:
        require_tokens(tokenizer, spec)
    prepare(tokenizer, spec.template)
    if not adds_tokens:
        require_rows(model, fields, tokenizer)
    spec.method.check_model(config)
    virtual = spec.method.virtual_tokens  # they have places in the context, too
    longest = fitting_tokens(fields, spec.sequence_length + virtual) - virtual
    told: dict[str, int] = {}

    def plan() -> BatchPlan:
        if spec.loss.compares_with_start:
            tell_of_another_model(ctx)
        for split in ("train", "heldout"):
            found, counts = encode_split(ctx, tokenizer, split, longest)
            found.save(ctx.output / STATE, split)
            if split == "train":
                told.update(counts)
                train = found
        return plan_batches(spec, ctx.scaling, BatchSizes.of(spec).steps_to_see(math.ceil(spec.epochs * len(train))))

    def needs() -> dict[str, Any]:
        stops = end_of_turn_ids(tokenizer)
        eos = stops if len(stops) > 1 else stops[0]
        return {"vocab_size": len(tokenizer), "eos_token_id": eos, "told": told}

    return run_training(ctx, "pipelines.stages.alignment.offline.stage:recipe", plan, tokenizer_files(tokenizer), needs)


def tell_of_another_model(ctx: Context[DpoSpec]) -> None:
    """Say so where the reference is not the model that training starts from, which may be meant."""
    measured, model = ctx.inputs[REFERENCE].record.parents["model"], ctx.inputs["model"]
    if measured.fingerprint != model.fingerprint:
        ctx.notice(f"the reference is {measured.ref}, and training starts from {model.record.ref}")


def encode_split(ctx: Context[DpoSpec], tokenizer: Any, split: str, longest: int) -> tuple[AnswerSet, dict[str, int]]:
    """The preferences of a split, and how many became what. Raises InputError where none is left, or where the
    reference does not know them."""
    spec, given = ctx.spec, ctx.inputs["preferences"]
    reader = AnswerReader(tokenizer, longest, spec.too_long, spec.loss.paired)
    answers, encoded = reader.read(read_preferences(given.local(), split))
    reader.require(f"{given.record.ref}, {split}")
    desirable = np.array([answer.desirable for answer in answers])
    known = ReferenceLogprobs.read(ctx.inputs[REFERENCE]) if spec.loss.compares_with_start else None
    reference = known.of(encoded) if known else np.zeros(len(encoded))
    if spec.loss.paired:
        return AnswerSet(True, Sequences.collect(encoded), desirable, reference), dict(reader.counts)
    assert known is not None
    others = reader.mismatched(answers)
    found = AnswerSet(
        False, Sequences.collect(encoded), desirable, reference, Sequences.collect(others), known.of(others)
    )
    return found, dict(reader.counts)


def recipe(work: Work, rank: int) -> Parts:
    """A model folder, tuned on preferences."""
    spec = work.spec
    assert isinstance(spec, DpoSpec)
    train, heldout = (AnswerSet.load(work.state, split, spec.loss.paired) for split in ("train", "heldout"))
    model = load_with_rows(work.inputs["model"].local(), spec, work.extra)
    parameters = model.num_parameters()
    trained = spec.method.apply(model, spec.seed)
    return Parts(
        objective=Preference(trained, spec.precision, spec.loss),
        source=PreferenceBatches(train, heldout, work.plan, spec, rank),
        sequence_length=int(train.sequences.lengths.mean()),
        write=writer(model, spec, work),
        figures=lambda: {
            **work.extra["told"],
            "parameters": parameters,
            "trained_parameters": trained_parameters(trained),
            "epochs": round(work.plan.num_positions / len(train), 4),
        },
        rate=spec.method.rate,
    )
