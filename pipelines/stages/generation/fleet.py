"""Several engines as one: shares out prompts, keeps the weights in step, and brings a dead or hung engine back.

The engines are actors that Ray restarts when they die; one that answers too late is killed first. A restarted engine
holds the weights it was first started with and says so by their version: it gets the newest ones before it works on.
Where engines take calls at once, one thread may give them weights while others have them draw.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from cluster.control import places
from cluster.control.failures import explained
from cluster.control.runtime import require_gpus
from cluster.core.adapters import require_whole
from cluster.core.errors import JobError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import ScalingSpec
from pipelines.stages.generation.engine import (
    Completion,
    EngineOptions,
    GenerationEngine,
    StaleWeights,
    checksum,
    engine_runtime_env,
)
from pipelines.stages.generation.last_words import Place, cause_of, last_words
from pipelines.stages.generation.shared import share

WEIGHTS = "weights"  # the thread of an engine that takes calls at once which takes weights, in their order
PATIENCE = 2.0  # a call takes at most so many times its deadline, with all its repetitions
Call = Callable[[Any], Any]  # an engine's handle to the reference of its answer


def start(artifact: Artifact, options: EngineOptions, scaling: ScalingSpec) -> list[Any]:
    """Handles of `rollout_workers` engines that begin to start now. They end with the process that called this.

    Raises InputError for an adapter: the engines want whole models.
    """
    require_whole(artifact)
    require_gpus(scaling.rollout_workers * options.gpus)
    options = _sharing(options, scaling)
    place = places.asked(places.ENGINE) if options.gpus or scaling.cpus_per_rollout else None
    actor = _actor(options, num_cpus=scaling.cpus_per_rollout, num_gpus=options.gpus, resources=place)
    return [actor.remote(artifact, options) for _ in range(scaling.rollout_workers)]


def start_beside(artifact: Artifact, options: EngineOptions, scaling: ScalingSpec) -> list[Any]:
    """Handles of engines that begin to start now, one beside each training worker, on its machine and its GPU; every
    rank calls this. Each engine ends with the worker that started it, who must keep its handle.

    Raises InputError for an adapter.
    """
    require_whole(artifact)
    options = _sharing(options, scaling)
    if options.gpus:  # Ray has given it to the worker, and gives no GPU twice
        device = torch.cuda.current_device()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        options = replace(options, visible_gpu=visible[device] if visible != [""] else str(device))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = _actor(options, num_cpus=scaling.cpus_per_rollout, num_gpus=0, scheduling_strategy=here)
    handles: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(handles, own := actor.remote(artifact, options))
    handles[dist.get_rank()] = own
    return handles


def _sharing(options: EngineOptions, scaling: ScalingSpec) -> EngineOptions:
    if scaling.cpus_per_rollout:
        return options
    nodes = sum(node["Alive"] for node in ray.nodes())
    return replace(options, threads=shared_threads(options.threads, scaling.engines, nodes))


def _actor(options: EngineOptions, **resources: Any) -> Any:
    threads: Any = {"concurrency_groups": {WEIGHTS: 1}} if options.calls_at_once > 1 else {}
    return ray.remote(
        max_concurrency=options.calls_at_once,
        max_restarts=-1,
        max_task_retries=-1,  # a call to an engine that is being restarted waits for it; one of old weights is refused
        runtime_env=engine_runtime_env(options),
        **resources,
        **threads,
    )(GenerationEngine)


def shared_threads(cores: int, engines: int, nodes: int) -> int:
    """Threads of an engine for which no cores are reserved: its part of a node's, so that engines do not wait for one
    another's threads."""
    return max(1, cores * nodes // max(nodes, engines))


@dataclass(frozen=True)
class Weights:
    """What engines are to hold: a version, the checksum of its numbers, and where these are."""

    version: int
    checksum: int
    reference: Any
    abandon: bool = False


class Fleet:
    """The engines behind `handles`, as one process, the learner's rank 0, uses them.

    `in_flight`: the engines take calls at once. Weights then reach what is being drawn, and `generate` may be called
    by several threads. `transport` is a `scaling.weight_transport`; with `nixl` the process must be an actor.
    """

    def __init__(
        self,
        handles: list[Any],
        timeout_seconds: float,
        max_failures: int,
        in_flight: bool = False,
        transport: str = "object_store",
    ) -> None:
        self.handles = handles
        self.timeout_seconds = timeout_seconds
        self.max_failures = max_failures
        self.in_flight = in_flight
        self.transport = transport
        self.restarts = 0
        self._weights: Weights | None = None  # the newest
        self._sending = threading.Lock()  # else an engine that is brought back may get older ones after the newest

    @property
    def version(self) -> int | None:
        """Of the weights that all engines got; none yet."""
        return self._weights.version if self._weights else None

    def sync(self, version: int, weights: dict[str, Tensor]) -> None:
        """Give all engines new weights. Raises JobError where what they then hold is not what was sent."""
        # What an engine draws when the first weights come was asked for by a process that is dead.
        new = Weights(version, checksum(weights.values()), self._put(weights), self.in_flight and self._weights is None)
        self._on_all([None] * len(self.handles), new)
        self._weights = replace(new, abandon=False)

    def _put(self, weights: dict[str, Tensor]) -> Any:
        if self.transport == "object_store":
            return ray.put(share(weights))
        return ray.put({name: weight.contiguous() for name, weight in weights.items()}, _tensor_transport="nixl")

    def rest(self) -> None:
        """Have all engines give back their GPUs' memory until they are asked for something."""
        self._on_all([lambda engine: engine.rest.remote()] * len(self.handles))

    def generate(self, prompts: list[list[int]], seeds: list[int], **options: Any) -> list[Completion]:
        """One completion of each prompt, from the newest weights, in order (see `GenerationEngine.generate`)."""
        size = -(-len(prompts) // len(self.handles))

        version = self.version

        def call(part: slice) -> Call:
            return lambda engine: engine.generate.remote(version, prompts[part], seeds=seeds[part], **options)

        shares = self._on_all([call(slice(i * size, (i + 1) * size)) for i in range(len(self.handles))])
        return [completion for share in shares for completion in share]

    def _load(self, engine: Any, weights: Weights) -> Any:
        method = engine.load.options(concurrency_group=WEIGHTS) if self.in_flight else engine.load
        return method.remote(weights.version, weights.reference, **({"abandon": True} if weights.abandon else {}))

    def _on_all(self, calls: Sequence[Call | None], new: Weights | None = None) -> list[Any]:
        """Every engine's call at the same time, and their answers; None stands for taking `new` weights. They are
        waited for together: one that fails is brought back and asked again while the others work, within `PATIENCE`
        times the time of one call: whoever waits for this process does not wait for ever."""
        places: dict[int, Place] = {}  # where the engines that failed had run
        answers: dict[int, Any] = {}
        failures: dict[int, list[str]] = {i: [] for i in range(len(calls))}
        end = time.monotonic() + PATIENCE * self.timeout_seconds
        waiting: dict[Any, Asked] = {}

        def ask(engine: int, call: Call | None, brings_back: bool = False) -> None:
            handle, until = self.handles[engine], min(end, time.monotonic() + self.timeout_seconds)
            place = handle.place.remote()
            if call is None:
                assert self._weights
                waiting[self._load(handle, self._weights)] = Asked(engine, place, until, self._weights, brings_back)
            else:
                waiting[call(handle)] = Asked(engine, place, until)

        with self._sending:
            self._weights = new or self._weights
            for i, call in enumerate(calls):
                ask(i, call)
        while waiting:
            soonest = min(asked.until for asked in waiting.values())
            done, _ = ray.wait(list(waiting), timeout=max(0.0, soonest - time.monotonic()))
            late = [reference for reference, asked in waiting.items() if asked.until <= time.monotonic()]
            for reference in done or late:
                asked = waiting.pop(reference)
                i = asked.engine
                answer = self._answer(asked, reference, late=not done)
                if not isinstance(answer, Failure):
                    if asked.brings_back:
                        ask(i, calls[i])
                    else:
                        answers[i] = answer
                    continue
                failures[i].append(answer.cause)
                with suppress(RayError):  # one that had not begun to work has said nothing
                    places[i] = ray.get(asked.place, timeout=0)
                if len(failures[i]) > self.max_failures or time.monotonic() >= end:
                    raise self._given_up(i, failures[i], places.get(i))
                self.restarts += 1
                with self._sending:
                    ask(i, None, brings_back=calls[i] is not None)
        return [answers[i] for i in range(len(calls))]

    def _given_up(self, index: int, causes: list[str], place: Place | None) -> JobError:
        log = f"\nThe end of its log:\n{last_words(place)}\n" if place else ""
        return JobError(
            f"rollout engine {index} failed {len(causes)} times in a row: {'; '.join(dict.fromkeys(causes))}{log}",
            "Run the same command to resume from the last checkpoint; a slow engine needs a higher "
            "scaling.rollout_timeout_seconds; --debug shows the engine's output.",
        )

    def _answer(self, asked: Asked, reference: Any, late: bool) -> Any:
        """An engine's answer, or the failure of one that died, hung or had been started anew."""
        handle = self.handles[asked.engine]
        if late:
            ray.kill(handle, no_restart=False)
            return Failure(f"it did not answer within {self.timeout_seconds:g} s")
        try:
            answer = ray.get(reference)
        except (ActorDiedError, ActorUnavailableError, StaleWeights) as error:
            return Failure(cause_of(error))
        except RayTaskError as error:  # an engine that failed within a batch is in no state to go on
            ray.kill(handle, no_restart=False)
            raise explained(error, f"rollout engine {asked.engine}") from error
        sent = asked.weights and (asked.weights.version, asked.weights.checksum)
        if sent and answer != sent:
            raise JobError(
                f"rollout engine {asked.engine} does not hold the weights that it was sent: version and checksum "
                f"{answer}, not {sent}",
                "vLLM changes this architecture's weights when it loads them; it cannot be synchronised in memory.",
            )
        return answer


@dataclass(frozen=True)
class Asked:
    """What an engine was asked: when it is late, where it runs, which weights it is to take, where it is these, and
    whether it is only being brought back by them."""

    engine: int
    place: Any
    until: float
    weights: Weights | None = None
    brings_back: bool = False


@dataclass(frozen=True)
class Failure:
    """An engine did not answer."""

    cause: str
