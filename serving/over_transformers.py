"""A replica over transformers, for models that vLLM cannot open: adapters over a base, soft prompts among them."""

from __future__ import annotations

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

        from serving.in_process import InProcess

        keep_model(store, kind, fingerprint)
        torch.set_num_threads(max(1, round(spec.cpus)))
        self.name, self.spec, self.keeper, self.store = name, spec, keeper, store
        self.talker = InProcess(Store(store).get(kind, fingerprint))
        if spec.max_model_len:
            self.talker.context_tokens = spec.max_model_len

    async def __serve_build_asgi_app__(self) -> Application:
        from serving.openai_api import ANSWERS_AT_ONCE, openai_app

        spec, artifact, at_once = self.spec, self.talker.name, self.spec.max_running or ANSWERS_AT_ONCE
        admission, answers = Admission(at_once, spec.max_queued), Answers(openai_app(self.name, self.talker, at_once))
        end_when_drained(answers, spec.drain_seconds)
        shared = self.shared(answers, artifact, spec.limits, admission, self.keeper)
        own = (shared, self.name, artifact, spec, self.talker.context_tokens, admission)
        plugins = await open_plugins(spec.plugins, self.store)
        return await gateway(*own, models=self.models, plugins=plugins, tells_request_id=False)  # Serve does
