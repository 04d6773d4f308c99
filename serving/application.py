"""From a spec to the Serve application of an endpoint: vLLM for a whole model, transformers for an adapter."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from cluster.control import forkserver
from cluster.core.adapters import adapter_place, context_of
from cluster.core.errors import InputError, SpecError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.feedback import Feedback
from cluster.core.specs.spec import fields
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from serving.endpoints import MODEL_VARIABLE, ORIGIN_VARIABLE
from serving.engine import check_served, engine_arguments, engine_environment
from serving.keys.database import place

if TYPE_CHECKING:
    from ray.serve import Application

VLLM_MODULES = ("vllm.v1.engine.async_llm", "vllm.entrypoints.launchers.app", "serving.over_vllm")
TRANSFORMERS_MODULES = ("transformers.modeling_utils", "peft", "serving.over_transformers")
TARGET_ONGOING_REQUESTS = 32  # per replica, before autoscaling adds one


def application(spec: EndpointSpec, name: str, artifact: Artifact, *, surge: bool = True) -> Application:
    """The application; `surge`: another one of this name answers until it is ready.

    Raises InputError for an artifact that is no Hugging Face model, or none that writes, SpecError for a bad field.
    """
    origin = {"store": artifact.store_url, "kind": artifact.kind, "fingerprint": artifact.fingerprint}
    over_vllm = adapter_place(artifact) is None
    (check_served if over_vllm else _check_adapter)(spec, artifact)
    environment = {
        MODEL_VARIABLE: artifact.record.ref,
        ORIGIN_VARIABLE: json.dumps({"spec": fields(spec), **origin}),
        "HF_HUB_OFFLINE": "1",  # the model is here: a slow or missing network must not matter
        **(engine_environment(spec) if over_vllm else {}),
    }
    if cache := os.environ.get("TRUNKLINE_CACHE"):
        environment["TRUNKLINE_CACHE"] = cache
    modules = VLLM_MODULES if over_vllm else TRANSFORMERS_MODULES
    options = _options(spec, environment, modules) | {"max_surge_percent": 100 if surge else 0}
    from serving.keeping import Keeper

    keeper: Any = Keeper
    access = replace(spec.access, database=place(spec.access.database))  # this process's home, and no replica's
    given = origin | {"keeper": keeper.bind(**origin), "page": spec.page, "feedback": _kept_at(spec.feedback)}
    replica: Any
    if over_vllm:
        from serving.over_vllm import Vllm as replica

        return replica.options(**options).bind(name, engine_arguments(spec, artifact), spec.limits, access, **given)
    from serving.over_transformers import Transformers as replica

    threads = max(1, round(spec.cpus))
    return replica.options(**options).bind(name, threads, spec.max_model_len, spec.limits, access, **given)


def _kept_at(feedback: Feedback) -> Feedback:
    """The same with a path that replicas in other folders understand. Raises InputError for a folder that cannot be."""
    path = feedback.path
    if path and "://" not in path:
        place = Location(os.path.expanduser(path))
        try:
            place.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # conversations are nobody else's business
        except OSError as error:
            raise InputError(f"endpoint.feedback.path: {error}", "Give a folder that can be written to.") from None
        path = place.url
    return replace(feedback, path=path)


def _check_adapter(spec: EndpointSpec, artifact: Artifact) -> None:
    if spec.gpus > 1:
        raise SpecError("endpoint.gpus: a model over transformers is on one GPU", "Set it to 1 or 0.")
    limit = context_of(artifact)
    if limit and spec.max_model_len > limit:
        raise SpecError(f"endpoint.max_model_len: {spec.max_model_len} is beyond the model's own {limit}", "Lower it.")


def _options(spec: EndpointSpec, environment: dict[str, str], modules: tuple[str, ...]) -> dict[str, Any]:
    """Where replicas run, and how many."""
    # With GPUs nothing is imported before the process knows which are its own.
    process = forkserver.runtime_env(environment, () if spec.gpus else modules)
    actor: dict[str, Any] = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "runtime_env": process}
    if spec.accelerator_type:
        actor["accelerator_type"] = spec.accelerator_type
    if spec.max_replicas == spec.min_replicas:
        return {"ray_actor_options": actor, "num_replicas": spec.min_replicas}
    scale = {
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "target_ongoing_requests": TARGET_ONGOING_REQUESTS,
    }
    return {"ray_actor_options": actor, "autoscaling_config": scale}
