"""A replica over vLLM: the engine's client and vLLM's own OpenAI application in one process, behind our gateway.

A request makes one hop, from Serve's proxy to here. The model travels by reference: each node's replica brings the
artifact from the store itself, verified, so that an endpoint does not care whether the store is a disk or a bucket.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from ray import serve

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import Health, Limits
from cluster.core.storage.store import Store
from serving.admission import Admission
from serving.answers import Answers
from serving.asgi import Application
from serving.draining import end_when_drained
from serving.gateway import gateway
from serving.keeping import Keeper, keep_model
from serving.sharing import Sharing
from serving.watch import Watch


@serve.deployment(name="Vllm", max_constructor_retry_count=1)
@serve.ingress()
class Vllm(Sharing):
    """One replica: the engine, and what the model is called."""

    async def __init__(  # type: ignore[misc]
        self,
        name: str,
        arguments: dict[str, Any],
        queued: int,
        health: Health,
        drain_seconds: float,
        limits: Limits,
        access: Access,
        store: str,
        kind: str,
        fingerprint: str,
        keeper: Keeper,
    ) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        keep_model(store, kind, fingerprint)
        artifact = Store(store).get(kind, fingerprint)
        self.name, self.artifact, self.limits, self.access = name, artifact.record.ref, limits, access
        self.keeper = keeper
        self.queued, self.health, self.drain_seconds = queued, health, drain_seconds
        folder = str(artifact.local())
        self.arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", folder])
        vars(self.arguments).update(arguments, served_model_name=[name], disable_fastapi_docs=True)
        self.arguments.allowed_origins = []  # the gateway says whose pages may ask
        config = AsyncEngineArgs.from_cli_args(self.arguments).create_engine_config()
        self.engine = AsyncLLM.from_vllm_config(config, disable_log_stats=self.arguments.disable_log_stats)

    async def __serve_build_asgi_app__(self) -> Application:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        tasks = await self.engine.get_supported_tasks()
        app = build_app(self.arguments, tasks, self.engine.model_config)
        await init_app_state(self.engine, app.state, self.arguments, tasks)
        await self._token()  # before clients may: what fails here is told to whoever starts the endpoint
        answers = Answers(app)
        end_when_drained(answers, self.drain_seconds)
        self.watch = Watch(self.health, answers, self._token, self.engine.is_sleeping)
        core = self.engine.engine_core
        core.get_output_async = _noted(core.get_output_async, self.watch.moved)
        app.state.server = _Ended(self.watch)
        admission = Admission(self.engine.vllm_config.scheduler_config.max_num_seqs, self.queued)
        context_tokens = self.engine.model_config.max_model_len
        shared = self.shared(answers, self.artifact, self.limits, admission, self.keeper)
        return await gateway(shared, self.name, self.artifact, self.limits, self.access, context_tokens, admission)

    async def _token(self) -> None:
        """Have the engine compute a token."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, detokenize=False)
        async for _ in self.engine.generate({"prompt_token_ids": [0]}, params, f"health-{secrets.token_hex(8)}"):
            pass

    async def check_health(self) -> None:
        """Raise where the engine is dead. (What finds a frozen one ends this process: serving/watch.py.)"""
        await self.engine.check_health()


def _noted(get: Callable[[], Awaitable[Any]], moved: Callable[[], None]) -> Callable[[], Awaitable[Any]]:
    """What waits for the engine's tokens, and tells when some have come."""

    async def noted() -> Any:
        outputs = await get()
        moved()
        return outputs

    return noted


class _Ended:
    """What vLLM takes for its server, which it asks to end when the engine is dead. Nothing could be answered any more,
    and at once, which a proxy that looks for the least busy replica would take for the best one."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    @property
    def should_exit(self) -> bool:
        return False

    @should_exit.setter
    def should_exit(self, wanted: bool) -> None:
        if wanted:
            self.watch.end("vLLM has ended it")
