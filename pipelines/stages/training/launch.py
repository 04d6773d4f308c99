"""A group of training workers under Ray Train, and what to say when it fails.

Ray restarts the group when a worker or a node dies, up to `max_failures` times; the workers then go on from the
newest checkpoint. An error in the code would only repeat: it ends the run at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback, get_context
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2._internal.logging.logging import SessionFileHandler
from ray.train.v2.api.config import LoggingConfig

from cluster.control import forkserver, places
from cluster.control.failures import AGAIN, describe, lost_its_node, original
from cluster.control.room import Room
from cluster.control.runtime import debugging
from cluster.core.clusters.meant import meant
from cluster.core.errors import JobError, LostNodeError, TrunklineError
from cluster.core.signals import held
from pipelines.specs import ScalingSpec
from pipelines.stages.generation.fleet import PATIENCE
from pipelines.stages.training.interface import GroupConfig
from pipelines.stages.training.interruption import HoldOnTerminate, Interruption, TellLosses, ask_to_stop

POLL_SECONDS = 0.5
COLLECTIVE_SECONDS = 1800  # torch's own
MARGIN = 1.5
STOP_SECONDS = 60.0  # that the workers get to save when this process is interrupted
# Ray's controller looks at its workers this often: the price of a restart and of the end, at no cost in between.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

# Without these glibc gives the memory of large tensors back after each use, and a step takes it page by page again.
# One arena, since Ray runs the work in a thread, whose own arena would do the same; 32 MiB is the highest threshold.
CPU_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
}

# Imported once on each node: what every rank on CPUs wants.
CPU_MODULES = (
    "pipelines.stages.training.worker",
    "ray.train.torch",
    "transformers.modeling_utils",
    "peft",
    "deepspeed",
)

# The controller runs in the driver, whose logging is not Ray's to set up.
os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")


class EndOnError(UserCallback):
    """Keeps Ray from retrying what a restart cannot cure. Runs in Ray Train's controller."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        errors = worker_exceptions.values()
        died = any(isinstance(error, (RayError, RayTrainError)) for error in errors)
        if not died and not all(_lost_peer(error) for error in errors):
            raise _first(worker_exceptions)


class Workers(WorkerGroup):
    """Ray's group of workers under a controller that is no actor: nobody asks it for the checkpoints it was told of."""

    def _init_train_context_on_workers(
        self, workers: list[Worker], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        started = [
            worker.actor.init_train_context.remote(
                train_run_context=self._train_run_context,
                distributed_context=worker.distributed_context,
                synchronization_actor=sync_actor,
                storage_context=self._storage_context,
                worker_callbacks=self._worker_callbacks_to_propagate,
                controller_actor=None,
                **{name: values[rank] for name, values in train_context_args.items()},
            )
            for rank, worker in enumerate(workers)
        ]
        ray.get(started)
        self._decorate_worker_log_file_paths(workers)


class Controller(TrainController):
    """Ray's controller, with workers that do not look for it among the actors."""

    worker_group_cls = Workers


class Trainer(TorchTrainer):
    """Ray's trainer with its controller in this process, where Ray starts an actor that imports all of torch again.

    It ends with this process, and its workers with it, so that nothing has to clean up after it. Without the actors for
    datasets, of which it gets none: batches are read in order by each worker.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, idle)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        with _logged():
            controller = Controller(**arguments)
            asyncio.run(controller.run())
            return controller.get_result()


@contextmanager
def _logged() -> Iterator[None]:
    """Has the controller's log written among the logs of the cluster; shown as well where Ray's logs are."""
    logger = logging.getLogger("ray.train")
    handler = SessionFileHandler(f"ray-train-controller-{os.getpid()}.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    propagated, logger.propagate = logger.propagate, debugging()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated


def run_workers(
    function: Callable[[Any, Interruption], dict[str, Any] | None],
    argument: Any,
    scaling: ScalingSpec,
    watch: Callable[[], None],
    notice: Callable[[str], None],
) -> dict[str, Any]:
    """Run `function(argument, interruption)` on every worker and return rank 0's value; `watch` is called meanwhile.

    Where this process is interrupted (Ctrl-C, SIGTERM, SIGHUP), the workers are asked to save before it ends, which
    `notice` is told. Raises JobError with the first failing rank and its last words.
    """
    outcome: dict[str, Any] = {}
    done = threading.Event()
    run = f"train-{uuid.uuid4().hex}"

    def fit(folder: str) -> None:
        try:
            outcome["value"] = _trainer(function, argument, scaling, run, folder, notice).fit().return_value
        except BaseException as error:
            outcome["error"] = error
        finally:
            done.set()

    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        # In a thread of its own, so that this one can report progress and be interrupted (Ray Train would swallow it).
        threading.Thread(target=fit, args=(folder,), daemon=True, name="ray-train").start()
        room = Room(scaling.num_workers, _resources(scaling), notice)
        try:
            while not done.wait(POLL_SECONDS):
                watch()
                room.look()
        except (KeyboardInterrupt, SystemExit):
            with held():
                ask_to_stop(run)
                notice(f"interrupted: a checkpoint is written first, in {STOP_SECONDS:.0f} s at most")
                done.wait(STOP_SECONDS)
            raise
        watch()
    if error := outcome.get("error"):
        raise _explained(error) from error
    value: dict[str, Any] = outcome["value"]
    return value


def _trainer(
    function: Callable[[Any, Interruption], Any],
    argument: Any,
    scaling: ScalingSpec,
    run: str,
    folder: str,
    notice: Callable[[str], None],
) -> Trainer:
    if meant().here:  # no node of a cluster of our own is ever taken away
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    gpus = int(scaling.gpus_per_worker)
    return Trainer(
        lambda config: function(config["argument"], Interruption(run, get_context().get_world_rank())),
        train_loop_config={"argument": argument},
        torch_config=GroupConfig(
            backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=collective_seconds(scaling)
        ),
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers, use_gpu=bool(gpus), resources_per_worker=_resources(scaling)
        ),
        run_config=RunConfig(
            name=run,
            storage_path=folder,  # Ray's own notes only: checkpoints are in the stage's output
            failure_config=FailureConfig(max_failures=scaling.max_failures),
            callbacks=[EndOnError(), HoldOnTerminate(), TellLosses(notice)],
            worker_runtime_env={} if gpus else forkserver.runtime_env(CPU_MEMORY, CPU_MODULES),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _resources(scaling: ScalingSpec) -> dict[str, float]:
    """What a training worker asks of the cluster."""
    gpus = int(scaling.gpus_per_worker)
    return {"CPU": scaling.cpus_per_worker} | ({"GPU": gpus} if gpus else {}) | places.asked(places.RANK)


def collective_seconds(scaling: ScalingSpec) -> int:
    """How long ranks wait for one another: longer than one of them may wait for rollout engines or reward functions,
    whose failure must be told first, since that of a collective does not say why."""
    waits = max(PATIENCE * scaling.rollout_timeout_seconds, scaling.reward_timeout_seconds)
    return max(COLLECTIVE_SECONDS, math.ceil(MARGIN * waits))


def _explained(error: BaseException) -> TrunklineError:
    """The error of Ray Train as one of ours."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    if failures:
        return _first(failures)
    inner = getattr(error, "controller_failure", error)  # what `EndOnError` raised
    if isinstance(inner, TrunklineError):
        return inner
    return JobError(f"the training group failed: {describe(inner)}", "--debug shows the whole error.")


def _first(failures: dict[int, Exception]) -> TrunklineError:
    """What went wrong first: the lowest rank whose error is its own, not the loss of another rank."""
    rank = min(failures, key=lambda r: (_lost_peer(failures[r]), r))
    error = original(failures[rank])
    if isinstance(error, TrunklineError):
        return error
    if lost_its_node(error):
        return LostNodeError(f"training worker {rank} is gone with its node", AGAIN)
    if "connectFullMesh" in str(error):
        return JobError(
            f"training worker {rank} does not reach the others: {describe(error)}",
            "Set GLOO_SOCKET_IFNAME, before Ray is started on a node, to the interface that the other nodes reach.",
        )
    return JobError(
        f"training worker {rank} failed: {describe(error)}",
        "Run the same command to resume from the last checkpoint; --debug shows the whole error.",
    )


def _lost_peer(error: Exception) -> bool:
    """Whether a rank failed only because it could not reach another: what gloo and NCCL then say."""
    words = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error) for word in words)
