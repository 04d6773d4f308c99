"""A replica over transformers, for models that vLLM cannot open: adapters over a base, soft prompts among them, and
encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace
from ray import serve

from cluster.core.pooling import pooling_of
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.admission import Admission
from serving.answers import Answers
from serving.asgi import Application
from serving.draining import end_when_drained
from serving.gateway import gateway
from serving.keeping import Keeper, keep_model
from serving.plugins.running import open_plugins
from serving.sharing import Sharing

if TYPE_CHECKING:
    from serving.openai_api import Writing
    from serving.pooling.opening import InProcessPooling


def opened(artifact: Artifact) -> Writing | InProcessPooling:
    """A model in this process, and what makes an application of it."""
    if pooling_of(artifact):
        from serving.pooling.opening import InProcessPooling

        return InProcessPooling(artifact)
    from serving.openai_api import Writing

    return Writing(artifact)


@serve.deployment(name="Transformers", max_constructor_retry_count=1)
@serve.ingress()
class Transformers(Sharing):
    """One replica: the model, and what it is called."""

    def __init__(
        self,
        name: str,
        spec: EndpointSpec,
        store: str,
        kind: str,
        fingerprint: str,
        keeper: Keeper,
    ) -> None:
        import torch

        keep_model(store, kind, fingerprint)
        torch.set_num_threads(max(1, round(spec.cpus)))
        self.name, self.spec, self.keeper, self.store = name, spec, keeper, store
        artifact = Store(store).get(kind, fingerprint)
        self.artifact, self.writes = artifact.record.ref, pooling_of(artifact) is None
        self.model = opened(artifact)
        if spec.max_model_len:
            self.model.context_tokens = spec.max_model_len

    async def __serve_build_asgi_app__(self) -> Application:
        from serving.openai_api import ANSWERS_AT_ONCE

        spec = self.spec if self.writes else replace(self.spec, page=False)
        at_once = spec.max_running or ANSWERS_AT_ONCE
        admission = Admission(at_once, spec.max_queued, spec.max_wait_seconds)
        answers = Answers(self.model.app(self.name, spec.limits, at_once))
        end_when_drained(answers, spec.drain_seconds)
        shared = self.shared(answers, self.artifact, spec.limits, admission, self.keeper)
        own = (shared, self.name, self.artifact, spec, self.model.context_tokens, admission)
        plugins = await open_plugins(spec.plugins, self.store)
        return await gateway(*own, models=self.models, plugins=plugins, tells_request_id=False)  # Serve does
