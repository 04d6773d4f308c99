"""A replica over vLLM: the engine's client and vLLM's own OpenAI application in one process, behind our gateway.

A request makes one hop, from Serve's proxy to here. The model travels by reference: each node's replica brings the
artifact from the store itself, verified, so that an endpoint does not care whether the store is a disk or a bucket.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from ray import serve

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.store import Store
from serving.admission import Admission
from serving.answers import Answers
from serving.asgi import Application
from serving.draining import end_when_drained
from serving.gateway import gateway
from serving.keeping import Keeper, keep_model
from serving.plugins.running import open_plugins
from serving.sharing import Sharing
from serving.tool_parsers import form_of_calls
from serving.vllm_app import engine_app, open_engine
from serving.watch import Watch


@serve.deployment(name="Vllm", max_constructor_retry_count=1)
@serve.ingress()
class Vllm(Sharing):
    """One replica: the engine, and what the model is called."""

    async def __init__(  # type: ignore[misc]
        self,
        name: str,
        spec: EndpointSpec,
        arguments: dict[str, Any],
        store: str,
        kind: str,
        fingerprint: str,
        keeper: Keeper,
    ) -> None:
        keep_model(store, kind, fingerprint)
        artifact = Store(store).get(kind, fingerprint)
        self.name, self.spec, self.artifact, self.keeper = name, spec, artifact.record.ref, keeper
        self.store, self.calls = store, form_of_calls(artifact)
        self.engine, self.arguments = open_engine(artifact, name, arguments)

    async def __serve_build_asgi_app__(self) -> Application:
        app: Any = await engine_app(self.engine, self.arguments, lambda: self.watch.end("vLLM has ended it"))
        await self._token()  # before clients may: what fails here is told to whoever starts the endpoint
        answers = Answers(app)
        end_when_drained(answers, self.spec.drain_seconds)
        self.watch = Watch(self.spec.health, answers, self._token, self.engine.is_sleeping)
        core = self.engine.engine_core
        core.get_output_async = _noted(core.get_output_async, self.watch.moved)
        admission = Admission(self.engine.vllm_config.scheduler_config.max_num_seqs, self.spec.max_queued)
        context_tokens = self.engine.model_config.max_model_len
        shared = self.shared(answers, self.artifact, self.spec.limits, admission, self.keeper)
        own = (shared, self.name, self.artifact, self.spec, context_tokens, admission)
        plugins = await open_plugins(self.spec.plugins, self.store)
        more = {"plugins": plugins, "calls": self.calls, "describe": app.openapi}
        return await gateway(*own, tells_request_id=False, **more)  # Serve tells it

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
