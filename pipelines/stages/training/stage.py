"""The stages that train: check, train on a group of workers, and leave a Hugging Face folder. Pretraining is one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from cluster.control.runtime import connect, require_gpus
from cluster.core import metrics
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.lines import Follower
from cluster.core.storage.location import Location
from pipelines.specs import PretrainSpec
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.tokens.stream import open_stores, open_stream, token_sources, validation_stores
from pipelines.stages.training.batches import BatchPlan, plan_batches, pretrain_steps
from pipelines.stages.training.engine.deepspeed_config import check_overrides
from pipelines.stages.training.models.models import configuration, read_configuration, require_fit, require_objective
from pipelines.stages.training.parallel.tensor_parallel import check_cut
from pipelines.stages.training.parallel.ulysses import check_shared
from pipelines.stages.training.samples import make_sampler
from pipelines.stages.training.telemetry.profiles import STATE, Run, announce

SUMMARY_FILE = "training.json"  # the figures, written after everything else: a run killed later has nothing to redo
TOKENIZER_FILES = ("tokenizer", "special_tokens", "vocab", "merges", "added_tokens", "chat_template")


def validate(ctx: Context[PretrainSpec]) -> BatchPlan:
    """Check everything that can be checked without a cluster. Raises SpecError or InputError."""
    tokens = ctx.inputs["tokens"]
    stores = open_stores(tokens, "train")
    for name, source in token_sources(tokens).items():
        stores[name].require_tokenizer(source.record.parents["tokenizer"].fingerprint)  # it goes with the model
    others = validation_stores(ctx.inputs)
    for name, other in others.items():
        _require_like(name, other, ctx, next(iter(stores.values())))
    if both := others.keys() & (stores.keys() if len(stores) > 1 else ()):
        raise InputError(f"two sets to validate on are called {min(both)!r}", "Name the input otherwise.")
    for name, heldout in (open_stores(tokens, "heldout") | others).items():
        if heldout.num_sequences < 1:
            raise InputError(
                f"the held-out split of {name!r} has {heldout.num_tokens} tokens: "
                f"not one sequence of {heldout.sequence_length}",
                "Raise corpus.heldout_fraction, or shorten tokens.sequence_length.",
            )
    store = next(iter(stores.values()))
    config: Any
    if model := ctx.inputs.get("model"):
        require_fit(model, store, next(iter(token_sources(tokens).values())).parent("tokenizer"), ctx.spec.shares)
        config = read_configuration(model)
    else:
        config = configuration(
            ctx.spec.model,
            ctx.spec.model_overrides,
            vocab_size=store.vocab_size,
            sequence_length=store.sequence_length,
            eos_token_id=store.eos_token_id,
        )
        for objective in ctx.spec.shares:
            require_objective(config.model_type, objective)
    lengths = {"tokens": store.sequence_length} | {
        f"validation_{n}": other.sequence_length for n, other in others.items()
    }
    check_shared(ctx.scaling.sequence_parallel_size, ctx.spec.shares, config, lengths)
    check_cut(ctx.scaling, ctx.spec, config)
    plan = plan_batches(ctx.spec, ctx.scaling, pretrain_steps(ctx.spec, store.sequence_length))
    stream = open_stream(tokens, ctx.spec.seed, plan.num_positions, ctx.spec.window_shards)
    make_sampler(ctx.spec, tokens, stream)
    return plan


def _require_like(name: str, other: TokenStore, ctx: Context[PretrainSpec], store: TokenStore) -> None:
    """Raise InputError where a set to validate on cannot be read by the model that `store` trains."""
    tokenizer = next(iter(token_sources(ctx.inputs["tokens"]).values())).record.parents["tokenizer"].fingerprint
    other.require_tokenizer(tokenizer)
    if other.sequence_length > store.sequence_length:
        raise InputError(
            f"validation_{name}: sequences of {other.sequence_length} tokens, the model is trained on "
            f"{store.sequence_length}",
            "Pack it with the same tokens.sequence_length.",
        )


def build(ctx: Context[PretrainSpec]) -> dict[str, Any]:
    """Train the model; a run that was killed goes on from its newest whole checkpoint.

    Raises SpecError before any cluster time for what is wrong in the spec, JobError where training fails.
    """
    return run_training(ctx, "pipelines.stages.training.worker:pretrain", lambda: validate(ctx), tokenizer_files(ctx))


def tokenizer_files(ctx: Context[PretrainSpec]) -> Iterable[tuple[str, bytes]]:
    """The files of the tokenizer that made the tokens: they go with the model."""
    source = next(iter(token_sources(ctx.inputs["tokens"]).values()))
    place = source.parent("tokenizer").location
    return ((name, place.read_bytes(name)) for name in place.walk() if name.startswith(TOKENIZER_FILES))


def run_training(
    ctx: Context[Any],
    recipe: str,
    plan: Callable[[], BatchPlan],
    files: Iterable[tuple[str, bytes]] = (),
    prepare: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """Plan, train by a recipe (see worker.py) and finish: what every stage that trains does.

    `plan` raises what can be known without a cluster; `prepare` returns what the recipe needs besides, made on it.
    `files` are written beside the weights.
    """
    if ctx.output.exists(SUMMARY_FILE):  # killed after its last step
        return _finish(ctx.output)
    batches = plan()
    check_overrides(ctx.spec, ctx.scaling)
    connect(ctx.scaling)
    require_gpus(ctx.scaling.num_workers * ctx.scaling.gpus_per_worker)
    from pipelines.stages.training.launch import run_workers  # Ray Train reads its environment when it is imported
    from pipelines.stages.training.worker import Work, train

    state = ctx.output / STATE
    work = Work(recipe, ctx.spec, ctx.scaling, batches, ctx.inputs, ctx.output, state, ctx.name, prepare())
    announce(ctx.output, Run(ctx.spec.kind, ctx.name, ctx.fingerprint))
    figures = run_workers(train, work, ctx.scaling, _watcher(ctx, batches.steps), ctx.notice)
    for name, data in files:
        ctx.output.write_bytes(name, data)
    ctx.output.write_bytes(SUMMARY_FILE, json.dumps(figures, indent=2).encode())
    return _finish(ctx.output)


def _finish(output: Location) -> dict[str, Any]:
    """Remove the checkpoints and return the stage's metrics."""
    output.remove(STATE)
    return dict(json.loads(output.read_bytes(SUMMARY_FILE)))


def _watcher(ctx: Context[Any], steps: int) -> Callable[[], None]:
    """A function that tells each new line of the metrics as progress, and its notices once."""
    told = -1
    record = Follower(ctx.output, metrics.METRICS_FILE)
    heard = max((line[metrics.STEP] for line in record.lines()), default=0)  # of an attempt before

    def watch() -> None:
        nonlocal told, heard
        lines = record.new()
        if not lines or lines[-1][metrics.STEP] == told:
            return
        for line in lines:
            for notice in line.get(metrics.NOTICES, ()) if line[metrics.STEP] > heard else ():
                ctx.notice(notice)
        told = lines[-1][metrics.STEP]
        heard = max(heard, told)
        shown = [name for name in metrics.SHOWN if name in lines[-1]]
        ctx.progress(told, steps, "steps", **{name: lines[-1][name] for name in shown})

    return watch
