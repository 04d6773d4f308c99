"""From a spec to the Serve application of an endpoint: vLLM for a whole model, transformers for an adapter."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from msgspec.structs import replace

from cluster.control import forkserver
from cluster.core.adapters import context_of
from cluster.core.errors import InputError, SpecError
from cluster.core.specs.batches import Batches
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.feedback import Feedback
from cluster.core.specs.spec import fields
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from serving.endpoints import MODEL_VARIABLE, ORIGIN_VARIABLE
from serving.engine import check_served, engine_arguments, engine_environment, plain_reason
from serving.keys.database import place
from serving.named import Named
from serving.split import Share
from serving.tasks import tasks
from serving.tracing import TRACES_ENDPOINT

if TYPE_CHECKING:
    from ray.serve import Application

VLLM_MODULES = (
    "vllm.v1.engine.async_llm",
    "vllm.entrypoints.launchers.app",
    "vllm.v1.engine.core",  # of the engine's own process, from here on
    "vllm.v1.worker.cpu_worker",
    "vllm._custom_ops",
    "serving.over_vllm",
)
TRANSFORMERS_MODULES = ("transformers.modeling_utils", "peft", "serving.over_transformers")
TARGET_ONGOING_REQUESTS = 32  # per replica, before autoscaling adds one
ONGOING_REQUESTS = 100_000  # Serve passes everything on: the gateway of a replica refuses what is too much
UNPLACED_REQUESTS = 1000  # wait in Serve while there is no replica at all, as after the death of the only one
RETRY_SECONDS = 5
ONE_REPLICA = {"min_replicas": 1, "max_replicas": 1}  # Serve knows how many there are, which is no new version
ENDING_SECONDS = 10.0  # for the last words of a replica that has not finished its answers in time
DRAINED_SECONDS = 0.5  # between two looks whether it has
SERVE_MISSES = 3  # times that a replica may not answer Serve before it is replaced


def application(
    spec: EndpointSpec,
    name: str,
    artifact: Artifact,
    *,
    surge: bool = True,
    version: str = "",
    before: dict[str, Any] | None = None,
    proxy: dict[str, str] | None = None,
    share: Share | None = None,
    models: Sequence[Named] = (),
) -> Application:
    """The application; `surge`: another one of this name answers until it is ready.

    Of the same `version` and made of the same, replicas that run go on: only their number changes. `before` is what
    the endpoint was made of until now, for a rollback; `proxy` are the variables of the proxy (proxy.py) before it and
    of traces (tracing.py), `share` what it passes on (split.py), and `models` are those beside its own (named.py).
    Raises InputError for an artifact that is no Hugging Face model, or none that writes, SpecError for a bad field.
    """
    version = version or secrets.token_hex(8)
    origin = {"store": artifact.store_url, "kind": artifact.kind, "fingerprint": artifact.fingerprint}
    made_of = {"spec": fields(replace(spec, **ONE_REPLICA)), "version": version, "before": before,
               "tasks": tasks(artifact), **origin}  # fmt: skip
    over_vllm = not plain_reason(artifact)
    (check_served if over_vllm else _check_over_transformers)(spec, artifact)
    environment = {
        MODEL_VARIABLE: artifact.record.ref,
        ORIGIN_VARIABLE: json.dumps(made_of),
        **(proxy or {}),
        "HF_HUB_OFFLINE": "1",  # the model is here: a slow or missing network must not matter
        **(engine_environment(spec) if over_vllm else {}),
    }
    if cache := os.environ.get("TRUNKLINE_CACHE"):
        environment["TRUNKLINE_CACHE"] = cache
    modules = VLLM_MODULES if over_vllm else TRANSFORMERS_MODULES
    options = _options(spec, environment, modules) | {"max_surge_percent": 100 if surge else 0}
    options["user_config"] = {"share": share and to_builtins(share), "models": to_builtins(list(models))}
    from serving.keeping import Keeper

    keeper = _of_version(Keeper, version)
    kept = [(each["store"], each["kind"], each["fingerprint"]) for each in (origin, before) if each]
    # Places as this process knows them, and no replica; how many replicas there are is Serve's.
    access = replace(spec.access, database=place(spec.access.database))
    places = {"feedback": _kept_at(spec.feedback), "batches": _kept_in(spec.batches)}
    if spec.plugins.corpus:
        corpus = Store(artifact.store_url).resolve(spec.plugins.corpus, "corpus")
        kept.append((corpus.store_url, corpus.kind, corpus.fingerprint))
        places["plugins"] = replace(spec.plugins, corpus=corpus.record.ref)
    own = replace(spec, access=access, **places, **ONE_REPLICA)
    given = origin | {"keeper": keeper.bind(kept)}
    replica: Any
    if over_vllm:
        from serving.over_vllm import Vllm as replica

        given["arguments"] = engine_arguments(spec, artifact)
        if collector := environment.get(TRACES_ENDPOINT):
            given["arguments"] |= {"otlp_traces_endpoint": collector}
    else:
        from serving.over_transformers import Transformers as replica
    return _of_version(replica.options(**options), version).bind(name, own, **given)


def _of_version(deployment: Any, version: str) -> Any:
    """A deployment whose replicas go on where it is deployed again in the same version. (Serve's own way to say so is
    private; without it every deployment is a new version.)"""
    return deployment.options(version=version, _internal=True)


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


def _kept_in(batches: Batches) -> Batches:
    """The same with a path that replicas in other folders understand. Raises InputError for a folder that cannot be."""
    if not batches.path:
        return batches
    path = Path(batches.path).expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"endpoint.batches.path: {error}", "Give a folder that can be written to.") from None
    return replace(batches, path=str(path))


def _check_over_transformers(spec: EndpointSpec, artifact: Artifact) -> None:
    for field, usual in (("quantization", ""), ("kv_cache_dtype", "auto")):
        if getattr(spec, field) != usual:
            raise SpecError(
                f"endpoint.{field}: {artifact.record.ref} is served by transformers, which has none", "Leave it out."
            )
    if spec.gpus > 1:
        raise SpecError("endpoint.gpus: a model over transformers is on one GPU", "Set it to 1 or 0.")
    limit = context_of(artifact)
    if limit and spec.max_model_len > limit:
        raise SpecError(f"endpoint.max_model_len: {spec.max_model_len} is beyond the model's own {limit}", "Lower it.")


def _options(spec: EndpointSpec, environment: dict[str, str], modules: tuple[str, ...]) -> dict[str, Any]:
    """Where replicas run, and how many."""
    from ray.serve.config import BackpressureConfig

    # With GPUs nothing is imported before the process knows which are its own.
    process = forkserver.runtime_env(environment, () if spec.gpus else modules, forks_children=True)
    actor: dict[str, Any] = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "runtime_env": process}
    if spec.accelerator_type:
        actor["accelerator_type"] = spec.accelerator_type
    found: dict[str, Any] = {
        "ray_actor_options": actor,
        "max_ongoing_requests": ONGOING_REQUESTS,
        "max_queued_requests": UNPLACED_REQUESTS,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=RETRY_SECONDS),
        "graceful_shutdown_timeout_s": spec.drain_seconds + ENDING_SECONDS,
        "graceful_shutdown_wait_loop_s": DRAINED_SECONDS,
        "health_check_period_s": spec.health.period_seconds,
        "health_check_timeout_s": spec.health.timeout_seconds / SERVE_MISSES,
    }
    if spec.max_replicas == spec.min_replicas:
        return found | {"num_replicas": spec.min_replicas}
    scale = {
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "target_ongoing_requests": min(TARGET_ONGOING_REQUESTS, spec.max_running or TARGET_ONGOING_REQUESTS),
    }
    return found | {"autoscaling_config": scale}
