"""What runs in every training worker: a recipe brings model, objective and batches; the loop and the engine are shared.

A recipe is named by an import string, so that the work travels without it and a worker imports only what it needs.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

from cluster.core.import_strings import import_string
from cluster.core.metrics import MetricsLog
from cluster.core.specs import spec as specs
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.trackers import trackers
from pipelines.specs import PretrainSpec, ScalingSpec, TrainingSpec
from pipelines.stages.tokens.stream import open_stores, open_stream, validation_stores
from pipelines.stages.training.batches import BatchPlan
from pipelines.stages.training.checkpoints.checkpoints import Checkpoints
from pipelines.stages.training.engine.engine import Engine
from pipelines.stages.training.interruption import Undisturbed
from pipelines.stages.training.loop import Loop
from pipelines.stages.training.models.models import build_model, configuration, count_parameters, load_model
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.objectives.objectives import objective_for
from pipelines.stages.training.optimizers.optimizers import build_optimizer
from pipelines.stages.training.parallel.ulysses import share_sequences
from pipelines.stages.training.samples import make_sampler
from pipelines.stages.training.sources import Source, TokenBatches
from pipelines.stages.training.sparsity import keep_zeros
from pipelines.stages.training.telemetry.block_statistics import Statistics
from pipelines.stages.training.telemetry.divergence import Divergence
from pipelines.stages.training.telemetry.profiling import Profiler
from pipelines.stages.training.telemetry.stragglers import Stragglers
from pipelines.stages.training.telemetry.throughput import Clock, flops_per_token


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs to know; travels pickled."""

    recipe: str
    spec: TrainingSpec
    scaling: ScalingSpec
    plan: BatchPlan
    inputs: dict[str, Artifact]
    output: Location
    state: Location  # temporary, shared by all workers and attempts
    name: str
    extra: dict[str, Any] = field(default_factory=dict)  # what a recipe of this kind needs besides

    @property
    def fingerprint(self) -> str:
        """The identity of the artifact that the work is for."""
        return specs.fingerprint(self.spec, {name: given.fingerprint for name, given in self.inputs.items()})


@dataclass
class Parts:
    """What a recipe brings. `write` turns the trained weights into the files of the artifact, in a folder."""

    objective: Objective
    source: Source
    sequence_length: int
    write: Callable[[dict[str, torch.Tensor], Path], None]
    figures: Callable[[], dict[str, Any]] = dict  # what there is to tell of the whole run, asked for at its end
    rate: Callable[[str], float] = lambda weight: 1.0  # the factor on a weight's learning rate, by its name


Recipe = Callable[[Work, int], Parts]


def train(work: Work, interruption: Undisturbed | None = None) -> dict[str, Any] | None:
    """Train on this rank. Returns the metrics; None where the run was asked to end early, and has saved."""
    _prepare(work.scaling)
    recipe: Recipe = import_string(work.recipe)
    parts = recipe(work, dist.get_rank())
    model, config = parts.objective.model, parts.objective.model.config
    parameters = count_parameters(model)
    if work.scaling.sequence_parallel_size > 1:
        parts.objective.sequence_part = share_sequences(model, work.scaling.sequence_parallel_size)
    optimizer = build_optimizer(model, work.spec, parts.rate, parts.objective.beside())
    engine = Engine(parts.objective, optimizer, work.spec, work.scaling, work.plan)
    flops = flops_per_token(parameters, config.num_hidden_layers, config.hidden_size, parts.sequence_length)
    loop = Loop(
        spec=work.spec,
        scaling=work.scaling,
        engine=engine,
        source=parts.source,
        checkpoints=Checkpoints(work.state / "checkpoints", work.scaling.keep_checkpoints),
        interruption=interruption or Undisturbed(),
        clock=Clock(engine.device, work.plan.num_workers, flops, work.scaling.activation_checkpointing),
        stragglers=Stragglers(engine.engine, engine.device, work.scaling.straggler_factor),
        statistics=Statistics(engine, work.scaling.statistics_every),
        profiler=Profiler(work.output),
        divergence=Divergence(work.spec),
        open_log=lambda step: MetricsLog(
            work.output,
            work.name,
            step,
            trackers(work.output, work.name, work.fingerprint, specs.fields(work.spec)),
        ),
    )
    figures = loop.run()
    if figures is None:
        return None
    writes = dist.get_rank() == 0
    weights = engine.weights(keep=writes)
    if writes:
        with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
            parts.write(weights, Path(folder))
            for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):  # each file whole or not at all
                work.output.write_file(path.relative_to(folder).as_posix(), path)
    return {**figures, "parameters": parameters, "steps": work.plan.steps, **parts.figures()}


def pretrain(work: Work, rank: int) -> Parts:
    """The recipe of pretraining: fresh weights or a model's, sequences of a token store or a mixture."""
    spec, plan = work.spec, work.plan
    assert isinstance(spec, PretrainSpec)
    stream = open_stream(work.inputs["tokens"], spec.seed, plan.num_positions, spec.window_shards)
    heldout = open_stores(work.inputs["tokens"], "heldout")
    if start := work.inputs.get("model"):
        model = load_model(start.local())
        if spec.keep_zeros:
            keep_zeros(model)
    else:
        config = configuration(
            spec.model,
            spec.model_overrides,
            vocab_size=stream.vocab_size,
            sequence_length=stream.sequence_length,
            eos_token_id=stream.eos_token_id,
        )
        model = build_model(config, spec.seed)
    objective, sampler = objective_for(spec.shares), make_sampler(spec, work.inputs["tokens"], stream)
    return Parts(
        objective=objective(model, stream.eos_token_id, spec.precision, spec.z_loss, spec.label_smoothing),
        source=TokenBatches(stream, heldout, plan, spec, rank, sampler, validation_stores(work.inputs)),
        sequence_length=stream.sequence_length,
        write=lambda weights, into: model.save_pretrained(into, state_dict=weights),
        figures=lambda: stream.epochs(plan.num_positions),
    )


def _prepare(scaling: ScalingSpec) -> None:
    """Numbers must not depend on what else the machine does: a fixed number of threads, deterministic kernels."""
    torch.set_num_threads(max(1, int(scaling.cpus_per_worker)))
    if scaling.gpus_per_worker:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # DeepSpeed's large buffers would be filled each step
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
