"""An endpoint over transformers, for models that vLLM cannot open: adapters over a base, soft prompts among them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ray import serve

from cluster.core.adapters import context_of
from cluster.core.errors import SpecError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.spec import fields
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.endpoints import MODEL_VARIABLE, ORIGIN_VARIABLE
from serving.keeping import keep_model
from serving.openai_api import openai_app

if TYPE_CHECKING:
    from ray.serve import Application

ONGOING_REQUESTS = 64  # that wait for their turn in a replica


def _served() -> Any:
    replica: Any = serve.get_replica_context().servable_object
    return replica.name, replica.talker


@serve.deployment(name="Transformers", max_ongoing_requests=ONGOING_REQUESTS, max_constructor_retry_count=1)
@serve.ingress(openai_app(_served))
class Transformers:
    """One replica: the model, and what it is called."""

    def __init__(self, name: str, threads: int, longest: int, store: str, kind: str, fingerprint: str) -> None:
        import torch

        from serving.in_process import InProcess

        keep_model(store, kind, fingerprint)
        torch.set_num_threads(threads)
        self.name, self.talker = name, InProcess(Store(store).get(kind, fingerprint))
        if longest:
            self.talker.context_tokens = longest


def application(spec: EndpointSpec, name: str, artifact: Artifact, *, surge: bool = True) -> Application:
    """The Serve application of an endpoint; `surge`: another one of this name answers until it is ready.

    Raises SpecError for what transformers, here, does not do.
    """
    if spec.gpus > 1:
        raise SpecError("endpoint.gpus: a model over transformers is on one GPU", "Set it to 1 or 0.")
    limit = context_of(artifact)
    if limit and spec.max_model_len > limit:
        raise SpecError(f"endpoint.max_model_len: {spec.max_model_len} is beyond the model's own {limit}", "Lower it.")
    origin = {"store": artifact.store_url, "kind": artifact.kind, "fingerprint": artifact.fingerprint}
    environment = {
        MODEL_VARIABLE: artifact.record.ref,
        ORIGIN_VARIABLE: json.dumps({"spec": fields(spec), **origin}),
        "HF_HUB_OFFLINE": "1",  # the model is here: a slow or missing network must not matter
    }
    if cache := os.environ.get("TRUNKLINE_CACHE"):
        environment["TRUNKLINE_CACHE"] = cache
    actor: dict[str, Any] = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "runtime_env": {"env_vars": environment}}
    if spec.accelerator_type:
        actor["accelerator_type"] = spec.accelerator_type
    scale: dict[str, Any] = {"num_replicas": spec.min_replicas}
    if spec.max_replicas > spec.min_replicas:
        scale = {"autoscaling_config": {"min_replicas": spec.min_replicas, "max_replicas": spec.max_replicas}}
    bare: Any = Transformers
    deployment = bare.options(ray_actor_options=actor, max_surge_percent=100 if surge else 0, **scale)
    return deployment.bind(name, max(1, round(spec.cpus)), spec.max_model_len, **origin)
