"""A replica over vLLM: the engine's client and vLLM's own OpenAI application in one process, behind our gateway.

A request makes one hop, from Serve's proxy to here. The model travels by reference: each node's replica brings the
artifact from the store itself, verified, so that an endpoint does not care whether the store is a disk or a bucket.
"""

from __future__ import annotations

from typing import Any

from ray import serve

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import Limits
from cluster.core.specs.feedback import Feedback
from cluster.core.storage.store import Store
from serving.asgi import Application
from serving.gateway import gateway
from serving.keeping import Keeper, keep_model
from serving.vllm_app import engine_app, open_engine

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
        keep_model(store, kind, fingerprint)
        self.page, self.feedback = page, feedback
        artifact = Store(store).get(kind, fingerprint)
        self.name, self.artifact, self.limits, self.access = name, artifact.record.ref, limits, access
        self.engine, self.arguments = open_engine(artifact, name, arguments)

    async def __serve_build_asgi_app__(self) -> Application:
        app = await engine_app(self.engine, self.arguments)
        context_tokens = self.engine.model_config.max_model_len
        return await gateway(
            app, self.name, self.artifact, self.limits, self.access, context_tokens, self.page, self.feedback
        )

    async def check_health(self) -> None:
        """Raise where the engine is dead: Serve then starts another replica."""
        await self.engine.check_health()
