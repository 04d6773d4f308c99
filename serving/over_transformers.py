"""A replica over transformers, for models that vLLM cannot open: adapters over a base, soft prompts among them."""

from __future__ import annotations

from ray import serve

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import Limits
from cluster.core.storage.store import Store
from serving.admission import Admission
from serving.answers import Answers
from serving.asgi import Application
from serving.draining import end_when_drained
from serving.gateway import gateway
from serving.keeping import Keeper, keep_model
from serving.sharing import Sharing


@serve.deployment(name="Transformers", max_constructor_retry_count=1)
@serve.ingress()
class Transformers(Sharing):
    """One replica: the model, and what it is called."""

    def __init__(
        self,
        name: str,
        threads: int,
        longest: int,
        running: int,
        queued: int,
        drain_seconds: float,
        limits: Limits,
        access: Access,
        store: str,
        kind: str,
        fingerprint: str,
        keeper: Keeper,
    ) -> None:
        import torch

        from serving.in_process import InProcess

        keep_model(store, kind, fingerprint)
        torch.set_num_threads(threads)
        self.name, self.limits, self.access = name, limits, access
        self.keeper = keeper
        self.running, self.queued, self.drain_seconds = running, queued, drain_seconds
        self.talker = InProcess(Store(store).get(kind, fingerprint))
        if longest:
            self.talker.context_tokens = longest

    async def __serve_build_asgi_app__(self) -> Application:
        from serving.openai_api import ANSWERS_AT_ONCE, openai_app

        at_once = self.running or ANSWERS_AT_ONCE
        app, context_tokens = openai_app(self.name, self.talker, at_once), self.talker.context_tokens
        admission, answers = Admission(at_once, self.queued), Answers(app)
        end_when_drained(answers, self.drain_seconds)
        return await gateway(answers, self.name, self.talker.name, self.limits, self.access, context_tokens, admission)
