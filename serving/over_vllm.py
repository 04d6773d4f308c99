"""A replica over vLLM: the engine's client and vLLM's own OpenAI application in one process, behind our gateway.

A request makes one hop, from Serve's proxy to here. The model travels by reference: each node's replica brings the
artifact from the store itself, verified, so that an endpoint does not care whether the store is a disk or a bucket.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from msgspec.structs import replace
from ray import serve

from cluster.core.pooling import pooling_of
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.store import Store
from serving.adapters import Adapters
from serving.admission import Admission
from serving.answers import Answers
from serving.asgi import Application
from serving.draining import end_when_drained, refuse_requests
from serving.gateway import gateway
from serving.handover import Handover
from serving.keeping import Keeper, keep_model
from serving.named import Named
from serving.peers import Peers
from serving.plugins.running import open_plugins
from serving.pooling.opening import around_vllm
from serving.pooling.pool import over_engine
from serving.pooling.reading import Row
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
        self.name, self.artifact, self.keeper, self.model = name, artifact.record.ref, keeper, artifact
        self.pools = pooling_of(artifact) is not None
        self.spec = replace(spec, page=False) if self.pools else spec
        self.fingerprint, self.store, self.calls = fingerprint, store, form_of_calls(artifact)
        self.engine, self.arguments = open_engine(artifact, name, arguments)

    async def __serve_build_asgi_app__(self) -> Application:
        app: Any = await engine_app(self.engine, self.arguments, lambda: self.watch.end("vLLM has ended it"))
        await self._token()  # before clients may: what fails here is told to whoever starts the endpoint
        answers = Answers(around_vllm(app, self.model, self.name, self.engine, self.spec.limits))
        end_when_drained(answers, self.spec.drain_seconds)
        self.adapters = Adapters(self.engine, app.state.openai_serving_models)
        self.peers, health = Peers(self.fingerprint), self.spec.health
        self.watch = Watch(health, answers, self._token, self.engine.is_sleeping, self._hand_over)
        core, watch = self.engine.engine_core, self.watch
        self.handover = Handover(core, self.peers.compute, health.timeout_seconds, watch.moved, watch.end)
        at_once = self.engine.vllm_config.scheduler_config.max_num_seqs
        admission = Admission(at_once, self.spec.max_queued, self.spec.max_wait_seconds)
        context_tokens = self.engine.model_config.max_model_len
        shared = self.shared(answers, self.artifact, self.spec.limits, admission, self.keeper)
        own = (shared, self.name, self.artifact, self.spec, context_tokens, admission)
        plugins = await open_plugins(self.spec.plugins, self.store)
        more = {"plugins": plugins, "calls": self.calls, "describe": app.openapi}
        return await gateway(*own, models=self.models, tells_request_id=False, **more)  # Serve tells it

    async def _token(self) -> None:
        """Have the engine compute a token, or what its model makes of one."""
        from vllm import SamplingParams

        if self.pools:
            await over_engine(self.engine)([Row([0])])
            return
        params = SamplingParams(max_tokens=1, detokenize=False)
        async for _ in self.engine.generate({"prompt_token_ids": [0]}, params, f"health-{secrets.token_hex(8)}"):
            pass

    async def load_adapters(self, named: list[Named]) -> None:
        await self.adapters.load(named)

    async def name_adapters(self, named: list[Named]) -> None:
        await self.adapters.name(named)

    async def try_adapter(self, told: dict[str, Any]) -> None:
        """Raise where the engine does not take an adapter; nobody is answered by it yet."""
        await self.adapters.load([msgspec.convert(told, Named)])

    async def _hand_over(self) -> None:
        """Have other replicas finish what the engine had begun, where there are any; as long as a replica may go."""
        refuse_requests()
        if self.peers:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.handover.go_on(), self.spec.drain_seconds)

    async def compute(self, fingerprint: str, request: Any) -> AsyncIterator[Any]:
        """Compute for another replica that has lost its engine: outputs of vLLM's; none where it served another model
        or this one has lost its own."""
        if request.lora_request is not None:
            request.lora_request = self.adapters.own(request.lora_request)
            fingerprint = fingerprint if request.lora_request else ""
        if fingerprint == self.fingerprint:
            async for output in self.handover.compute(request):
                yield output

    async def check_health(self) -> None:
        """Raise where the engine is lost, so that Serve starts another replica, while this one finishes its answers.
        (What finds a frozen one is in serving/watch.py.)"""
        if self.watch.ending:
            raise RuntimeError("the engine is lost")
        await self.engine.check_health()
