"""A replica over vLLM: the engine's client and vLLM's own OpenAI application in one process, behind our gateway.

A request makes one hop, from Serve's proxy to here. The model travels by reference: each node's replica brings the
artifact from the store itself, verified, so that an endpoint does not care whether the store is a disk or a bucket.
"""

from __future__ import annotations

import os
from typing import Any

from ray import serve

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import Limits
from cluster.core.specs.feedback import Feedback
from cluster.core.storage.store import Store
from serving.asgi import Application
from serving.gateway import gateway
from serving.keeping import Keeper, keep_model

ONGOING_REQUESTS = 100_000  # the engine queues what it cannot compute at once


@serve.deployment(name="Vllm", max_ongoing_requests=ONGOING_REQUESTS, max_constructor_retry_count=1)
@serve.ingress()
class Vllm:
    """One replica: the engine, and what the model is called."""

    async def __init__(  # type: ignore[misc]
        self,
        name: str,
        arguments: dict[str, Any],
        limits: Limits,
        access: Access,
        store: str,
        kind: str,
        fingerprint: str,
        keeper: Keeper,
        page: bool,
        feedback: Feedback,
    ) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.v1.engine.async_llm import AsyncLLM

        keep_model(store, kind, fingerprint)
        self.page, self.feedback = page, feedback
        artifact = Store(store).get(kind, fingerprint)
        self.name, self.artifact, self.limits, self.access = name, artifact.record.ref, limits, access
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
        app.state.server = _Ended()
        context_tokens = self.engine.model_config.max_model_len
        return await gateway(
            app, self.name, self.artifact, self.limits, self.access, context_tokens, self.page, self.feedback
        )

    async def check_health(self) -> None:
        """Raise where the engine is dead: Serve then starts another replica."""
        await self.engine.check_health()


class _Ended:
    """What vLLM takes for its server, which it asks to end when the engine is dead. Nothing could be answered any more,
    and at once, which a proxy that looks for the least busy replica would take for the best one."""

    @property
    def should_exit(self) -> bool:
        return False

    @should_exit.setter
    def should_exit(self, wanted: bool) -> None:
        if wanted:
            os._exit(1)
