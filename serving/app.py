"""Endpoints on the Ray cluster of this process: bring one up, wait until it answers, take it down.

The first endpoint of a cluster lives at the root of its port, further ones below their names: Serve has one port.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import requests
from ray import serve
from ray.serve.context import _get_global_client  # `serve.status()` tells neither ports, routes nor environments
from urllib3.exceptions import InsecureRequestWarning

from cluster.control import local, runtime
from cluster.core.adapters import adapter_place
from cluster.core.context import unheard
from cluster.core.errors import InputError, JobError, NotReadyError, nearest
from cluster.core.specs.access import Access, is_postgres
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.application import application
from serving.endpoints import FAILED, STARTING, Endpoint, base_url, drain_seconds, from_details, origin
from serving.gateway import ARTIFACT_HEADER
from serving.keeping import keep_model
from serving.keys.administration import Administration

POLL_SECONDS = 0.5
PROBE_SECONDS = 10.0
UNDEPLOY_SECONDS = 60.0  # beside the time that its requests may take
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ERROR_LINE = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception): .+")
PROCESS = re.compile(r"\(pid=(\d+)")  # of the replica, in Ray's account of its error
# How Ray quotes an error within another, and how vLLM's processes report the death of their children.
WRAPPERS = ("Traceback (most recent call last)", "See root cause above", "See stack trace for root cause")


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
        _check_port(spec.port)  # before a cluster is started in vain
    runtime.connect(
        ScalingSpec(num_workers=spec.max_replicas, cpus_per_worker=spec.cpus, gpus_per_worker=float(spec.gpus))
    )
    details = serve_details()
    if details is None:
        _check_port(spec.port)
    elif (port := details["http_options"]["port"]) != spec.port:
        raise NotReadyError(
            f"this cluster serves on port {port} already, not on {spec.port}",
            f"Set endpoint.port={port}, or take its endpoints down first (`ctl serve down --all`).",
        )
    _check_capacity(spec)
    _check_access(spec, name, notice)
    before = origin(details, name)
    surge = before is None or _has_room(spec)
    if not surge:
        notice(f"the cluster has no room for both: endpoint {name!r} does not answer until the new one is ready")
    if adapter_place(artifact) is not None:
        notice(f"{artifact.record.ref} is an adapter: transformers serves it, its answers in turn, and not vLLM")
    if not runtime.debugging():
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
    target = application(spec, name, artifact, surge=surge, before=_before(before, spec, artifact))
    serve.start(http_options={"host": spec.host, "port": spec.port, **_certificate(spec.access)})
    route = route_of(details, name)
    serve._run(target, name=name, route_prefix=route, _blocking=False)  # `serve.run` would wait without a deadline
    if wait:
        try:
            return await_ready(name, spec.start_timeout_seconds, replaces=before is not None)
        except JobError as error:
            if before is None:
                raise
            ref = _serve_again(before, name, route)
            raise JobError(
                f"{error.message.rstrip('.')}. {ref}, which was served before, is kept", error.remedy
            ) from None
    url = base_url(spec.host, spec.port, route, "https" if spec.access.tls_certificate else "http")
    return Endpoint(name=name, base_url=url, model=artifact.record.ref, status="DEPLOYING", replicas=0)


def _serve_again(before: dict[str, Any], name: str, route: str) -> str:
    """Serve what an endpoint was made of; replicas of it that are left answer meanwhile. Its artifact's name."""
    artifact = Store(before["store"]).get(before["kind"], before["fingerprint"])
    spec = convert(before["spec"], EndpointSpec, "endpoint")
    target = application(spec, name, artifact, version=before["version"], before=before["before"])
    serve._run(target, name=name, route_prefix=route, _blocking=False)
    return artifact.record.ref


def _before(made_of: dict[str, Any] | None, spec: EndpointSpec, artifact: Artifact) -> dict[str, Any] | None:
    """What to go back to from a new version: what is served now, or, where that is the same, the one before it."""
    if made_of is None:
        return None
    if made_of["fingerprint"] == artifact.fingerprint and convert(made_of["spec"], EndpointSpec, "endpoint") == spec:
        return made_of["before"]  # type: ignore[no-any-return]
    return {key: value for key, value in made_of.items() if key not in ("before", "version")}


def _has_room(spec: EndpointSpec) -> bool:
    """Whether a replica fits beside those that run."""
    free = ray.available_resources()
    return free.get("CPU", 0) >= spec.cpus and free.get("GPU", 0) >= spec.gpus


def await_ready(name: str, timeout_seconds: float, *, replaces: bool = False) -> Endpoint:
    """Wait until an endpoint answers under its name. Raises JobError where it fails or takes longer.

    One that fails is taken down, unless it `replaces` one whose replicas may still answer.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = threading.Event()
    while time.monotonic() < deadline:
        endpoint = find(name)
        if endpoint.status in FAILED:
            reason = _reason(endpoint.message)
            if not replaces:
                undeploy(name)
            raise JobError(f"endpoint {name!r} did not start: {reason}", "See the replica's log for more (--debug).")
        if endpoint.status not in STARTING and answers(endpoint):
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
    """Take an endpoint down, its begun requests finished. Serve stays, and with it the port, for the next endpoint.

    Raises InputError where no endpoint is called so, JobError where its replicas do not end in time.
    """
    find(name)
    seconds = drain_seconds(serve_details(), name) + UNDEPLOY_SECONDS
    serve.delete(name, _blocking=False)  # else it gives up after a minute
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while name in (serve_details() or {}).get("applications", {}):
        if time.monotonic() > deadline:
            raise JobError(
                f"endpoint {name!r} has not ended within {seconds:.0f} s", "Look at it with `ctl serve list`."
            )
        pause.wait(POLL_SECONDS)


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


def _check_port(port: int) -> None:
    if local.port_taken(port):
        raise NotReadyError(f"port {port} is in use", "Choose another with `--port`, or stop what holds it.")


def _check_capacity(spec: EndpointSpec) -> None:
    """Raise NotReadyError where the cluster could never place a replica: it would wait in silence."""
    total = ray.cluster_resources()
    for resource, wanted in (("CPU", spec.cpus), ("GPU", spec.gpus)):
        if wanted > total.get(resource, 0):
            raise NotReadyError(
                f"a replica wants {wanted:g} {resource}s, the cluster has {total.get(resource, 0):g}",
                f"Lower endpoint.{resource.lower()}s, or add nodes.",
            )


def _check_access(spec: EndpointSpec, name: str, notice: Callable[[str], None]) -> None:
    """Raise NotReadyError where the keys cannot be read by all replicas; say where nobody can use the endpoint, or
    everybody."""
    access = spec.access
    if not access.keys:
        if spec.host not in LOOPBACK:
            notice(f"whoever reaches {spec.host}:{spec.port} may use it: endpoint.access.keys=true asks for keys")
        return
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 and not is_postgres(access.database):
        raise NotReadyError(
            f"endpoint.access.database: a file is one machine's, and this cluster has {nodes}",
            "Give postgresql://USER@HOST/NAME.",
        )
    keys = [key for key in Administration(access.database).list_keys() if not key.ended(time.time())]
    if not any(not key.endpoints or name in key.endpoints for key in keys):
        notice(f"no key is for endpoint {name!r} yet: make one with `ctl serve keys create`")


def _certificate(access: Access) -> dict[str, str]:
    """Serve's options for HTTPS. Raises InputError for files that are no certificate and its key."""
    if not access.tls_certificate:
        return {}
    files = {name: str(Path(file).expanduser().absolute()) for name, file in
             (("certfile", access.tls_certificate), ("keyfile", access.tls_key))}  # fmt: skip
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(**files)
    except (OSError, ssl.SSLError) as error:
        told = f"endpoint.access.tls_certificate and tls_key: {error}"
        raise InputError(told, "Give a PEM file of each.") from None
    return {f"ssl_{name}": file for name, file in files.items()}


def _reason(message: str) -> str:
    """The last error that a failed replica reports; where it only points to a child process, that one's, from the
    replica's log, which both write.

    The log is read where this machine has it: on the node of the replica, which a local cluster always is.
    """
    if own := _errors(message):
        return own[-1]
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    for pid in PROCESS.findall(message):
        for path in sorted(logs.glob(f"worker-*-{pid}.*"), key=lambda path: path.stat().st_mtime, reverse=True):
            if found := _errors(path.read_text(errors="replace")):
                return found[-1]
    return (message.strip().splitlines() or ["no reason given"])[-1]


def _errors(text: str) -> list[str]:
    """What follows a traceback, without what merely wraps or points to another error."""
    return [line.strip() for line in ERROR_LINE.findall(text) if not any(wrapper in line for wrapper in WRAPPERS)]
