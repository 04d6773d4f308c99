"""Endpoints on the Ray cluster of this process: bring one up, wait until it answers, take it down.

The first endpoint of a cluster lives at the root of its port, further ones below their names: Serve has one port.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import ray
import requests
from ray import serve
from ray.serve.context import _get_global_client  # `serve.status()` tells neither ports, routes nor environments
from urllib3.exceptions import InsecureRequestWarning

from cluster.control import runtime
from cluster.core.adapters import over_transformers
from cluster.core.context import unheard
from cluster.core.errors import InputError, JobError, NotReadyError, nearest
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving import proxy as proxies
from serving.application import application
from serving.checks import certificate, check_access, check_capacity, check_port
from serving.endpoints import (
    CANARY,
    FAILED,
    STARTING,
    Endpoint,
    base_url,
    drain_seconds,
    from_details,
    origin,
    proxy_environment,
)
from serving.gateway import ARTIFACT_HEADER
from serving.keeping import keep_model
from serving.reasons import reason

POLL_SECONDS = 0.5
PROBE_SECONDS = 10.0
UNDEPLOY_SECONDS = 60.0  # beside the time that its requests may take


def deploy(
    spec: EndpointSpec,
    store: Store,
    *,
    artifact: Artifact | None = None,
    wait: bool = True,
    notice: Callable[[str], None] = unheard,
) -> Endpoint:
    """Serve a model artifact and return when it answers (`wait=False`: when Serve has accepted it).

    An endpoint of the same name answers until the new one is ready, where the cluster has room for both; else there is
    a gap, which `notice` is told. Where the new one fails, what was served before is served again. Joins the cluster of
    RAY_ADDRESS, else starts a private one that ends with this process. `artifact` is the model where it is known
    already. Raises InputError for a missing artifact, NotReadyError where the port is taken, JobError with the
    replica's last error where the engine dies or does not answer in time.
    """
    artifact = artifact or store.resolve(spec.model)
    keep_model(artifact.store_url, artifact.kind, artifact.fingerprint)  # until the endpoint's own processes do
    name = spec.served_name or artifact.name
    if not re.fullmatch(r"[\w.-]+", name):
        raise InputError(f"endpoint.served_name: {name!r}", "Only letters, digits and . _ - are allowed.")
    if not ray.is_initialized() and not os.environ.get("RAY_ADDRESS"):
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
    check_capacity(spec)
    check_access(spec, name, notice)
    if f"{name}{CANARY}" in (details or {}).get("applications", {}):
        raise NotReadyError(
            f"endpoint {name!r} has a canary", "End it before: `ctl serve promote`, or `ctl serve rollback`."
        )
    before = origin(details, name)
    surge = before is None or has_room(spec)
    if not surge:
        notice(f"the cluster has no room for both: endpoint {name!r} does not answer until the new one is ready")
    if reason := over_transformers(artifact):
        notice(f"{artifact.record.ref} is {reason}: transformers serves it, its answers in turn, and not vLLM")
    hush()
    nodes = sum(node["Alive"] for node in ray.nodes())
    proxy = proxies.environment(spec, nodes) if details is None else proxy_environment(details)
    target = application(spec, name, artifact, surge=surge, before=_before(before, spec, artifact), proxy=proxy)
    serve.start(
        http_options={"host": spec.host, "port": spec.port, **certificate(spec.access)},
        controller_options={"runtime_env": {"env_vars": proxy}},
    )
    route = route_of(details, name)
    serve._run(target, name=name, route_prefix=route, _blocking=False)  # `serve.run` would wait without a deadline
    if wait:
        try:
            return await_ready(name, spec.start_timeout_seconds, replaces=before is not None)
        except JobError as error:
            if before is None:
                raise
            ref = _serve_again(before, name, route, proxy)
            raise JobError(
                f"{error.message.rstrip('.')}. {ref}, which was served before, is kept", error.remedy
            ) from None
    url = base_url(spec.host, spec.port, route, "https" if spec.access.tls_certificate else "http")
    return Endpoint(name=name, base_url=url, model=artifact.record.ref, status="DEPLOYING", replicas=0)


def _serve_again(before: dict[str, Any], name: str, route: str, proxy: dict[str, str]) -> str:
    """Serve what an endpoint was made of; replicas of it that are left answer meanwhile. Its artifact's name."""
    artifact = Store(before["store"]).get(before["kind"], before["fingerprint"])
    spec = convert(before["spec"], EndpointSpec, "endpoint")
    target = application(spec, name, artifact, version=before["version"], before=before["before"], proxy=proxy)
    serve._run(target, name=name, route_prefix=route, _blocking=False)
    return artifact.record.ref


def _before(made_of: dict[str, Any] | None, spec: EndpointSpec, artifact: Artifact) -> dict[str, Any] | None:
    """What to go back to from a new version: what is served now, or, where that is the same, the one before it."""
    if made_of is None:
        return None
    if made_of["fingerprint"] == artifact.fingerprint and convert(made_of["spec"], EndpointSpec, "endpoint") == spec:
        return made_of.get("before")
    return {key: value for key, value in made_of.items() if key not in ("before", "version")}


def hush() -> None:
    """Have Serve tell warnings alone, where nobody debugs."""
    if not runtime.debugging():
        logging.getLogger("ray.serve").setLevel(logging.WARNING)


def has_room(spec: EndpointSpec) -> bool:
    """Whether a replica fits beside those that run."""
    free = ray.available_resources()
    return free.get("CPU", 0) >= spec.cpus and free.get("GPU", 0) >= spec.gpus


def await_ready(name: str, timeout_seconds: float, *, replaces: bool = False, routed: bool = True) -> Endpoint:
    """Wait until an endpoint answers under its name. Raises JobError where it fails or takes longer.

    One that fails is taken down, unless it `replaces` one whose replicas may still answer. One that is not `routed`
    answers other replicas alone, and cannot be asked from here.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while time.monotonic() < deadline:
        endpoint = find(name)
        if endpoint.status in FAILED:
            why = reason(endpoint.message)
            if not replaces:
                undeploy(name)
            raise JobError(f"endpoint {name!r} did not start: {why}", "See the replica's log for more (--debug).")
        if endpoint.status not in STARTING and (not routed or answers(endpoint)):
            return endpoint
        pause.wait(POLL_SECONDS)  # Serve sends no event when an application's state changes
    raise JobError(
        f"endpoint {name!r} did not answer within {timeout_seconds:.0f} s ({endpoint.status})",
        f"Look at it with `ctl serve list`, or take it down with `ctl serve down {name}`.",
    )


def answers(endpoint: Endpoint) -> bool:
    """Whether the endpoint answers with its own model, which it names also where it asks for a key."""
    try:
        with warnings.catch_warnings():  # the certificate is for its name, and not for this address: no key is sent
            warnings.simplefilter("ignore", InsecureRequestWarning)
            reply = requests.get(f"{endpoint.base_url}/models", timeout=PROBE_SECONDS, verify=False)
    except requests.RequestException:
        return False
    return reply.status_code in (200, 401) and reply.headers.get(ARTIFACT_HEADER.decode()) == endpoint.model


def undeploy(name: str) -> None:
    """Take an endpoint down, its begun requests finished, and its canary, if it has one. Serve stays, and with it the
    port, for the next endpoint.

    Raises InputError where no endpoint is called so, JobError where its replicas do not end in time.
    """
    find(name)
    seconds = drain_seconds(serve_details(), name) + UNDEPLOY_SECONDS
    hush()
    serve.delete(name, _blocking=False)  # else it gives up after a minute
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while name in (left := (serve_details() or {}).get("applications", {})):
        if time.monotonic() > deadline:
            raise JobError(
                f"endpoint {name!r} has not ended within {seconds:.0f} s", "Look at it with `ctl serve list`."
            )
        pause.wait(POLL_SECONDS)
    if f"{name}{CANARY}" in left:
        undeploy(f"{name}{CANARY}")


def endpoints() -> list[Endpoint]:
    """The endpoints of the cluster that this process has joined."""
    return from_details(serve_details())


def find(name: str) -> Endpoint:
    """The endpoint of a name. Raises InputError where none is called so."""
    found = {endpoint.name: endpoint for endpoint in endpoints()}
    if name not in found:
        raise InputError(f"no endpoint is called {name!r}", nearest(name, list(found)) if found else "None is running.")
    return found[name]


def serve_details() -> dict[str, Any] | None:
    """Serve's own account of itself, or None where it does not run."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return None if client is None else dict(client.get_serve_details())


def route_of(details: dict[str, Any] | None, name: str) -> str:
    routes = {n: a["route_prefix"] for n, a in (details or {}).get("applications", {}).items()}
    if name in routes:
        return str(routes[name])
    return f"/{name}" if "/" in routes.values() else "/"
