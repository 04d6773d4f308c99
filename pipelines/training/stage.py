"""The pretraining stage: check, train on a group of workers, and leave a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cluster import metrics
from cluster.context import Context
from cluster.errors import InputError
from cluster.location import Location
from cluster.runtime import connect
from cluster.specs import PretrainSpec
from pipelines.tokens.reader import TokenStore
from pipelines.training.batches import BatchPlan, plan_batches
from pipelines.training.models import configuration

SUMMARY_FILE = "training.json"  # the figures, written after everything else: a run killed later has nothing to redo
STATE = ".train"  # below the output while training: checkpoints


def validate(ctx: Context[PretrainSpec]) -> BatchPlan:
    """Check everything that can be checked without a cluster. Raises SpecError or InputError."""
    folder = ctx.inputs["tokens"].local()
    store, heldout = TokenStore(folder, "train"), TokenStore(folder, "heldout")
    store.require_tokenizer(ctx.inputs["tokens"].record.parents["tokenizer"].fingerprint)  # it goes with the model
    if heldout.num_sequences < 1:
        raise InputError(
            f"the held-out split has {heldout.num_tokens} tokens: not one sequence of {heldout.sequence_length}",
            "Raise corpus.heldout_fraction, or shorten tokens.sequence_length.",
        )
    configuration(
        ctx.spec.model,
        ctx.spec.model_overrides,
        vocab_size=store.vocab_size,
        sequence_length=store.sequence_length,
        eos_token_id=store.eos_token_id,
    )
    return plan_batches(ctx.spec, ctx.scaling, store.sequence_length)


def build(ctx: Context[PretrainSpec]) -> dict[str, Any]:
    """Train the model; a run that was killed goes on from its newest whole checkpoint.

    Raises SpecError before any cluster time for what is wrong in the spec, JobError where training fails.
    """
    if ctx.output.exists(SUMMARY_FILE):  # killed after its last step
        return _finish(ctx.output)
    plan = validate(ctx)
    connect(ctx.scaling)
    from pipelines.training.launch import run_workers  # Ray Train reads its environment when it is imported
    from pipelines.training.worker import Work, train

    work = Work(ctx.spec, ctx.scaling, plan, ctx.inputs["tokens"], ctx.output, ctx.output / STATE, ctx.name)
    tokenizer = ctx.inputs["tokens"].parent("tokenizer").location
    total = plan.steps * plan.global_batch * TokenStore(ctx.inputs["tokens"].local(), "train").sequence_length
    figures = run_workers(train, work, ctx.scaling, _watcher(ctx, total))
    for name in tokenizer.walk():
        if name.startswith(("tokenizer", "special_tokens", "vocab", "merges", "added_tokens")):
            ctx.output.write_bytes(name, tokenizer.read_bytes(name))
    ctx.output.write_bytes(SUMMARY_FILE, json.dumps(figures, indent=2).encode())
    return _finish(ctx.output)


def _finish(output: Location) -> dict[str, Any]:
    """Remove the checkpoints and return the stage's metrics."""
    output.remove(STATE)
    return dict(json.loads(output.read_bytes(SUMMARY_FILE)))


def _watcher(ctx: Context[PretrainSpec], total: int) -> Callable[[], None]:
    """A function that tells each new line of the metrics as progress."""
    told = -1

    def watch() -> None:
        nonlocal told
        lines = metrics.read(ctx.output)
        if lines and lines[-1][metrics.STEP] != told:
            told = lines[-1][metrics.STEP]
            shown = (metrics.LOSS, metrics.TOKENS_PER_SECOND, metrics.ETA_SECONDS)
            ctx.progress(lines[-1][metrics.TOKENS], total, "tokens", **{name: lines[-1][name] for name in shown})

    return watch
