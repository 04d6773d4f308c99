"""The benchmark stage: tasks of lm-eval (EleutherAI's evaluation harness) put to a model of Trunkline.

Prompts, choices, metrics and standard errors are lm-eval's own, so that figures compare with published ones. Each task
runs by itself: sequences are padded to their batch, so that a figure would else depend on what was asked beside it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cluster.core.adapters import adapter_place, context_of, open_model
from cluster.core.context import Context
from cluster.core.errors import InputError, JobError, NotReadyError, nearest
from cluster.core.integers import needs_opening
from cluster.core.storage.artifact import Artifact
from pipelines.specs import BenchmarkSpec
from pipelines.stages.evaluation import local_data
from pipelines.stages.evaluation.harness_results import data_digest, read
from pipelines.stages.evaluation.results import (
    RESAMPLES,
    RESULTS_FILE,
    SAMPLES_FILE,
    Outcome,
    Result,
    Results,
    encode_outcomes,
    encode_results,
)

PACKAGES = ("lm_eval", "torch", "transformers", "datasets")
SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


def build(ctx: Context[BenchmarkSpec]) -> dict[str, Any]:
    """Write results.json and samples.jsonl. Returns the values by `task/metric`.

    Raises InputError for a task that is unknown or whose data are not as published, NotReadyError where lm-eval or what
    a task needs is not installed or the hub is out of reach.
    """
    spec, model = ctx.spec, ctx.inputs["model"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with _quiet():
        manager, tasks = load_tasks(spec)
        lm = _open(model, spec, "cuda" if ctx.scaling.gpus_per_worker and torch.cuda.is_available() else "cpu")
    results: list[Result] = []
    outcomes: list[Outcome] = []
    digests: dict[str, str] = {}
    for number, (name, members) in enumerate(tasks.items()):
        ctx.progress(number, len(tasks), "tasks")
        with _quiet():
            found = _evaluate(lm, members, manager, spec)
        its_results, its_outcomes = read(found, spec.seed)
        results += its_results
        outcomes += its_outcomes
        digests[name] = data_digest(found)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    report = Results(model=model.record.ref, results=results, data_sha256=digests, versions=versions)
    ctx.output.write_bytes(SAMPLES_FILE, encode_outcomes(outcomes))
    ctx.output.write_bytes(RESULTS_FILE, encode_results(report))
    return {f"{result.task}/{result.metric}": result.value for result in results}


def load_tasks(spec: BenchmarkSpec) -> tuple[Any, dict[str, list[Any]]]:
    """lm-eval's task manager, and its tasks and groups, with their data, by the names in the spec."""
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise NotReadyError(f"lm-eval cannot be imported: {error}", "pip install 'trunkline[evaluate]'") from error
    manager = TaskManager()
    for name in spec.tasks:
        if name not in manager.task_index:
            raise InputError(f"benchmark.tasks: lm-eval has no task {name!r}", nearest(name, manager.all_tasks))
    load = _load_local if spec.data else _load_from_hub
    return manager, {name: load(manager, name, spec) for name in spec.tasks}


def _load_from_hub(manager: Any, name: str, spec: BenchmarkSpec) -> list[Any]:
    try:
        loaded = manager.load([name])
    except ImportError as error:
        raise NotReadyError(f"{name} needs a package that is missing: {error}", "Install it.") from error
    except Exception as error:  # what a data set that cannot be had raises is of every kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotReadyError(
            f"{name}: lm-eval cannot load its data from the hub: {reason}",
            "Check the network, or give a folder of local files as benchmark.data.",
        ) from error
    return [loaded["groups"][name]] if name in loaded["groups"] else list(loaded["tasks"].values())


def _load_local(manager: Any, name: str, spec: BenchmarkSpec) -> list[Any]:
    found = local_data.load(Path(spec.data), name)
    members = [{"task": task, **_overrides(task, documents, spec)} for task, documents in found.items()]
    # Within a group, an override is laid over the task's own definition; alone it would take its place.
    group: dict[str, Any] = {"group": name, "task": members}
    if name in local_data.GROUPS:
        group["aggregate_metric_list"] = [{"metric": metric} for metric in local_data.GROUPS[name][1].metrics]
    loaded = manager.load([group])
    return [loaded["groups"][name]] if name in local_data.GROUPS else list(loaded["tasks"].values())


def _overrides(task: str, documents: local_data.LocalTask, spec: BenchmarkSpec) -> dict[str, Any]:
    """What makes a task of lm-eval take its data from here: questions are its split `test`, solved ones `dev`."""
    if spec.num_fewshot and not documents.dev:
        raise InputError(f"benchmark.num_fewshot: the local files of {task} hold no solved examples", "Set it to 0.")

    def dataset(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        splits = {"test": documents.test} | ({"dev": documents.dev} if documents.dev else {})
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in splits.items()})

    splits = {"training_split": None, "validation_split": None, "test_split": "test"}
    return {"custom_dataset": dataset, "fewshot_split": "dev" if documents.dev else None, **splits}


def _open(model: Artifact, spec: BenchmarkSpec, device: str) -> Any:
    from lm_eval.models.huggingface import HFLM

    folder, opened = str(model.local()), {}
    if adapter_place(model) is not None or needs_opening(model.local()):
        opened = {"pretrained": open_model(model, dtype=spec.dtype).to(device), "tokenizer": folder}
    lm = HFLM(
        **{"pretrained": folder, **opened},
        device=device,
        dtype=spec.dtype,
        batch_size=spec.batch_size,
        max_length=spec.max_length or (context_of(model) if opened else None),
    )
    if spec.apply_chat_template and not lm.tokenizer.chat_template:
        raise InputError("benchmark.apply_chat_template: the model has no chat template", "Leave it out.")
    return lm


def _evaluate(lm: Any, members: list[Any], manager: Any, spec: BenchmarkSpec) -> dict[str, Any]:
    """What lm-eval finds of one task, tag or group, with its samples."""
    from lm_eval import simple_evaluate

    try:
        found: dict[str, Any] = simple_evaluate(
            model=lm,
            tasks=members,
            task_manager=manager,
            num_fewshot=spec.num_fewshot,
            limit=spec.limit or None,
            apply_chat_template=spec.apply_chat_template,
            bootstrap_iters=RESAMPLES,
            **dict.fromkeys(SEEDS, spec.seed),
        )
    except ImportError as error:
        raise NotReadyError(f"lm-eval needs a package that is missing: {error}", "Install it.") from error
    except torch.OutOfMemoryError as error:
        raise JobError("a batch does not fit into the GPU's memory", "Lower benchmark.batch_size.") from error
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's bars, notes and processes: it bootstraps in forks of this one, which holds threads."""
    logger, level = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level
    before = os.environ.get("DISABLE_MULTIPROC")
    logger.setLevel(logging.ERROR)
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before
