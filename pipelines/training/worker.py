"""What runs in every training worker: builds the parts, runs the loop, and writes the model from rank 0."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers

from cluster.artifact import Artifact
from cluster.location import Location
from cluster.metrics import MetricsLog
from cluster.specs import PretrainSpec, ScalingSpec
from pipelines.tokens.reader import TokenStore
from pipelines.training.batches import Batches, BatchPlan
from pipelines.training.checkpoints import Checkpoints
from pipelines.training.engine import Engine
from pipelines.training.loop import Loop
from pipelines.training.models import build_model, configuration, count_parameters
from pipelines.training.objectives import CausalLM
from pipelines.training.optimizers import build_optimizer
from pipelines.training.throughput import Clock, flops_per_token


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs to know; travels pickled."""

    spec: PretrainSpec
    scaling: ScalingSpec
    plan: BatchPlan
    tokens: Artifact
    output: Location
    state: Location  # temporary, shared by all workers and attempts
    name: str


def train(work: Work) -> dict[str, Any]:
    """Train on this rank. Returns the metrics."""
    _prepare(work.scaling)
    spec, scaling, plan = work.spec, work.scaling, work.plan
    folder = work.tokens.local()
    store, heldout = TokenStore(folder, "train"), TokenStore(folder, "heldout")
    length, eos = store.sequence_length, store.eos_token_id
    config = configuration(
        spec.model,
        spec.model_overrides,
        vocab_size=store.vocab_size,
        sequence_length=length,
        eos_token_id=eos,
    )
    model = build_model(config, spec.seed)
    parameters = count_parameters(model)
    optimizer = build_optimizer(model, spec)
    engine = Engine(CausalLM(model, eos, spec.precision), optimizer, spec, scaling, plan)
    flops = flops_per_token(parameters, config.num_hidden_layers, config.hidden_size, length)
    layout = {"num_workers": plan.num_workers, "zero_stage": scaling.zero_stage}
    loop = Loop(
        spec=spec,
        scaling=scaling,
        engine=engine,
        batches=Batches(store, plan, spec.seed, dist.get_rank()),
        heldout=heldout,
        checkpoints=Checkpoints(work.state / "checkpoints", layout, scaling.keep_checkpoints),
        clock=Clock(engine.device, plan.num_workers, flops),
        open_log=lambda step: MetricsLog(work.output, work.name, step),
    )
    figures = loop.run()
    weights = engine.weights()
    if dist.get_rank() == 0:
        _write_model(model, weights, work.output)
    return {
        **figures,
        "parameters": parameters,
        "tokens": plan.steps * plan.global_batch * length,
        "steps": plan.steps,
        "epochs": round(plan.steps * plan.global_batch / store.num_sequences, 4),
    }


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


def _write_model(model: transformers.PreTrainedModel, weights: dict[str, torch.Tensor], output: Location) -> None:
    """Write the Hugging Face folder, each file whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        model.save_pretrained(folder, state_dict=weights)
        for path in sorted(Path(folder).iterdir()):
            output.write_bytes(path.name, path.read_bytes())
