"""An endpoint brought up, or another version behind its name, beside the one that answers until then."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ray
from ray import serve

from cluster.control import runtime
from cluster.core.clusters.meant import meant
from cluster.core.context import unheard
from cluster.core.errors import InputError, JobError, NotReadyError
from cluster.core.pooling import pooling_of
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving import proxy as proxies
from serving import tracing
from serving.app import await_ready, has_room, hush, route_of, serve_details
from serving.application import application
from serving.beside import end_others, live_models, resolved, start
from serving.checks import certificate, check_access, check_capacity, check_pooling, check_port, check_scorer
from serving.endpoints import CANARY, Endpoint, base_url, environment_of, origin, proxy_environment
from serving.engine import plain_reason
from serving.keeping import keep_model
from serving.named import Named
from serving.tasks import check_named, check_tasks, tasks


def deploy(
    spec: EndpointSpec,
    store: Store,
    *,
    artifact: Artifact | None = None,
    wait: bool = True,
    change_task: bool = False,
    notice: Callable[[str], None] = unheard,
) -> Endpoint:
    """Serve a model artifact and return when it answers (`wait=False`: when Serve has accepted it).

    An endpoint of the same name answers until the new one is ready, where the cluster has room for both; else there is
    a gap, which `notice` is told. Where the new one fails, what was served before is served again. Joins the
    cluster that is meant, else starts a private one that ends with this process. `artifact` is the model where it is
    known already. Raises InputError for a missing artifact, and for one that does not do what the endpoint of the name
    does until now (serving/tasks.py; `change_task` lets it), NotReadyError where the port is taken, JobError with the
    replica's last error where the engine dies or does not answer in time.
    """
    artifact = artifact or store.resolve(spec.model)
    keep_model(artifact.store_url, artifact.kind, artifact.fingerprint)  # until the endpoint's own processes do
    name = spec.served_name or artifact.name
    if not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"endpoint.served_name: {name!r}", "Only letters, digits and . _ - are allowed.")
    if not ray.is_initialized() and meant().here:
        check_port(spec.port)  # before a cluster is started in vain
    runtime.connect(
        ScalingSpec(num_workers=spec.max_replicas, cpus_per_worker=spec.cpus, gpus_per_worker=float(spec.gpus))
    )
    details = serve_details()
    if details and not details["applications"]:  # left by an endpoint that failed, with a proxy of its own
        serve.shutdown()
        details = None
    if details is None:
        check_port(spec.port)
    elif (port := details["http_options"]["port"]) != spec.port:
        raise NotReadyError(
            f"this cluster serves on port {port} already, not on {spec.port}",
            f"Set endpoint.port={port}, or take its endpoints down first (`ctl serve down --all`).",
        )
    models = resolved(spec.models, spec, name, artifact, store)
    before = origin(details, name)
    if before and not change_task:
        check_tasks(f"endpoint {name!r}", before["tasks"], artifact.record.ref, tasks(artifact))
        check_named(name, live_models(details, name), models)
    check_scorer(spec, models, details)
    check_capacity(spec)
    check_access(spec, name, notice)
    if pooling := pooling_of(artifact):
        check_pooling(spec, artifact, pooling)
        notice(f"{artifact.record.ref} {pooling.told}, and does not write")
    if f"{name}{CANARY}" in (details or {}).get("applications", {}):
        raise NotReadyError(
            f"endpoint {name!r} has a canary", "End it before: `ctl serve promote`, or `ctl serve rollback`."
        )
    surge = before is None or has_room(spec)
    if not surge:
        notice(f"the cluster has no room for both: endpoint {name!r} does not answer until the new one is ready")
    if reason := plain_reason(artifact):
        notice(f"{artifact.record.ref} is {reason}: transformers serves it, its answers in turn, and not vLLM")
    hush()
    nodes = sum(node["Alive"] for node in ray.nodes())
    proxy = proxies.environment(spec, nodes) if details is None else proxy_environment(details)
    before_that = _before(before, spec, artifact)
    replicas = proxy | (tracing.environment() or environment_of(details, name))
    target = application(spec, name, artifact, surge=surge, before=before_that, proxy=replicas, models=models)
    serve.start(
        http_options={"host": spec.host, "port": spec.port, **certificate(spec.access)},
        controller_options={"runtime_env": {"env_vars": proxy}},
    )
    try:
        start(models, spec, name, replicas, notice)
    except (JobError, NotReadyError):
        end_others(name, live_models(details, name))
        raise
    route = route_of(details, name)
    serve._run(target, name=name, route_prefix=route, _blocking=False)  # `serve.run` would wait without a deadline
    if wait:
        try:
            ready = await_ready(name, spec.start_timeout_seconds, replaces=before is not None)
            end_others(name, models)
            return ready
        except JobError as error:
            if before is None:
                raise
            ref = _serve_again(before, name, route, environment_of(details, name), live_models(details, name))
            end_others(name, live_models(details, name))
            raise JobError(
                f"{error.message.rstrip('.')}. {ref}, which was served before, is kept", error.remedy
            ) from None
    url = base_url(spec.host, spec.port, route, "https" if spec.access.tls_certificate else "http")
    return Endpoint(name=name, base_url=url, model=artifact.record.ref, status="DEPLOYING", replicas=0)


def _serve_again(before: dict[str, Any], name: str, route: str, proxy: dict[str, str], models: list[Named]) -> str:
    """Serve what an endpoint was made of; replicas of it that are left answer meanwhile. Its artifact's name."""
    artifact = Store(before["store"]).get(before["kind"], before["fingerprint"])
    spec = convert(before["spec"], EndpointSpec, "endpoint")
    version, earlier = before["version"], before["before"]
    target = application(spec, name, artifact, version=version, before=earlier, proxy=proxy, models=models)
    serve._run(target, name=name, route_prefix=route, _blocking=False)
    return artifact.record.ref


def _before(made_of: dict[str, Any] | None, spec: EndpointSpec, artifact: Artifact) -> dict[str, Any] | None:
    """What to go back to from a new version: what is served now, or, where that is the same, the one before it."""
    if made_of is None:
        return None
    if made_of["fingerprint"] == artifact.fingerprint and convert(made_of["spec"], EndpointSpec, "endpoint") == spec:
        return made_of.get("before")
    return {key: value for key, value in made_of.items() if key not in ("before", "version")}
