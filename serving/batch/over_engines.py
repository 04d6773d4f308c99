"""A batch answered by engines on a model, through Ray Data: what an endpoint on it would answer, without one.

Each actor holds the application of a replica (vLLM's, or transformers' for what that cannot open) behind the gateway,
and is asked without a socket. Ray Data shares out the lines, and starts an actor again that died.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.control import forkserver
from cluster.core.errors import TrunklineError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.application import TRANSFORMERS_MODULES, VLLM_MODULES
from serving.asgi import Application, called
from serving.batch.requests import Answers, Asked
from serving.batch.run import Answered
from serving.engine import check_served, engine_arguments, engine_environment, plain_reason

AT_ONCE = 32  # requests that an engine is given at the same time
MOST_BLOCKS = 2000  # a task of Ray's each
MOST_IN_BLOCK = 16  # requests of a block are answered at once, and known together
MAX_DEATHS = 3  # of an engine: a request that kills it must not do so for ever
NAME = "batch"


@dataclass(frozen=True)
class OverEngines:
    """How a model artifact is asked: by `spec.max_replicas` engines, each as a replica of an endpoint has it."""

    artifact: Artifact
    spec: EndpointSpec

    def __call__(self, todo: list[Asked], answers: Answers) -> Iterator[Answered]:
        """Each answer soon after it is there.

        Raises InputError for a model that cannot be asked, JobError where the engines fail.
        """
        if not plain_reason(self.artifact):
            check_served(self.spec, self.artifact)
        import ray
        from ray.exceptions import RayError

        from cluster.control import failures, runtime
        from cluster.core.specs.scaling import ScalingSpec

        engines = self.spec.max_replicas
        runtime.connect(
            ScalingSpec(num_workers=engines, cpus_per_worker=self.spec.cpus, gpus_per_worker=float(self.spec.gpus))
        )
        if not runtime.debugging():
            for name in ("ray.data", "ray.data._internal.progress"):
                logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is raised here
        by_number = {asked.number: asked for asked in todo}
        size = max(1, min(MOST_IN_BLOCK, len(todo) // MOST_BLOCKS))
        rows = [{"number": a.number, "url": a.url, "body": json.dumps(a.body)} for a in todo]
        dataset = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size)).map(
            Engine,
            fn_constructor_args=(self.artifact.store_url, self.artifact.kind, self.artifact.fingerprint, self.spec),
            compute=ray.data.ActorPoolStrategy(
                size=engines,
                max_tasks_in_flight_per_actor=2 * AT_ONCE,
                max_concurrent_calls_per_actor=AT_ONCE,
            ),
            num_cpus=self.spec.cpus,
            num_gpus=self.spec.gpus,
            runtime_env=self._process(),
            max_restarts=MAX_DEATHS,
            max_task_retries=MAX_DEATHS,
        )
        try:
            for row in dataset.iter_rows():
                asked = by_number[int(row["number"])]
                if row["failed"]:
                    yield asked.number, answers.unanswered(asked, row["failed"])
                    continue
                body = json.loads(row["answer"])
                yield asked.number, answers.answered(asked, int(row["status"]), row["request_id"], body)
        except RayError as error:
            raise failures.explained(error, f"an engine of {self.artifact.record.ref}") from error

    def _process(self) -> dict[str, Any]:
        """Ray's runtime environment of an engine's process, as a replica's."""
        over_vllm = not plain_reason(self.artifact)
        environment = {"HF_HUB_OFFLINE": "1", **(engine_environment(self.spec) if over_vllm else {})}
        if cache := os.environ.get("TRUNKLINE_CACHE"):
            environment["TRUNKLINE_CACHE"] = cache
        modules = (*(VLLM_MODULES if over_vllm else TRANSFORMERS_MODULES), "ray.data", __name__)
        return forkserver.runtime_env(environment, () if self.spec.gpus else modules, forks_children=True)


class Engine:
    """An actor of Ray Data's: the application of a replica. It is made when the first request comes, by the loop that
    it then runs in."""

    def __init__(self, store: str, kind: str, fingerprint: str, spec: EndpointSpec) -> None:
        self.artifact, self.spec = Store(store).get(kind, fingerprint), spec
        self._opening: asyncio.Task[Application] | None = None

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self._opening = self._opening or asyncio.create_task(self._open())
        app = await self._opening
        request_id = secrets.token_hex(16)
        told = {"number": row["number"], "request_id": request_id, "status": 0, "answer": "", "failed": ""}
        body = json.dumps({**json.loads(row["body"]), "model": NAME}).encode()
        try:
            status, answer = await called(app, row["url"], body, {"x-request-id": request_id})
        except TrunklineError as error:
            return told | {"failed": str(error)}
        return told | {"status": status, "answer": answer.decode()}

    async def _open(self) -> Application:
        from serving.gateway import gateway

        app: Application
        if not plain_reason(self.artifact):
            from serving.pooling.opening import around_vllm
            from serving.vllm_app import engine_app, open_engine

            arguments = engine_arguments(self.spec, self.artifact) | {"disable_log_stats": True}
            engine, parsed = open_engine(self.artifact, NAME, arguments)
            app = around_vllm(await engine_app(engine, parsed), self.artifact, NAME, engine, self.spec.limits)
            context_tokens = engine.model_config.max_model_len
        else:
            from serving.over_transformers import opened

            model = opened(self.artifact)
            app, context_tokens = model.app(NAME, self.spec.limits), model.context_tokens
        plain = EndpointSpec(model=self.spec.model, limits=self.spec.limits, page=False)  # no keys: nobody else asks
        return await gateway(app, NAME, self.artifact.record.ref, plain, context_tokens)
