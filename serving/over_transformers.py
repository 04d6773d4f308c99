"""A replica over transformers, for models that vLLM cannot open: adapters over a base, soft prompts among them."""

from __future__ import annotations

from ray import serve

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import Limits
from cluster.core.specs.feedback import Feedback
from cluster.core.storage.store import Store
from serving.asgi import Application
from serving.gateway import gateway
from serving.keeping import Keeper, keep_model

ONGOING_REQUESTS = 64  # that are answered or wait for room in a replica; more wait in Serve's proxy


@serve.deployment(name="Transformers", max_ongoing_requests=ONGOING_REQUESTS, max_constructor_retry_count=1)
@serve.ingress()
class Transformers:
    """One replica: the model, and what it is called."""

    def __init__(
        self,
        name: str,
        threads: int,
        longest: int,
        limits: Limits,
        access: Access,
        store: str,
        kind: str,
        fingerprint: str,
        keeper: Keeper,
        page: bool,
        feedback: Feedback,
    ) -> None:
        import torch

        from serving.in_process import InProcess

        keep_model(store, kind, fingerprint)
        self.page, self.feedback = page, feedback
        torch.set_num_threads(threads)
        self.name, self.limits, self.access = name, limits, access
        self.talker = InProcess(Store(store).get(kind, fingerprint))
        if longest:
            self.talker.context_tokens = longest

    async def __serve_build_asgi_app__(self) -> Application:
        from serving.openai_api import openai_app

        app, context_tokens = openai_app(self.name, self.talker), self.talker.context_tokens
        return await gateway(
            app, self.name, self.talker.name, self.limits, self.access, context_tokens, self.page, self.feedback
        )
