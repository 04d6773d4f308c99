"""Endpoints on the Ray cluster of this process: find one, wait until it answers, take it down.

The first endpoint of a cluster lives at the root of its port, further ones below their names: Serve has one port.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from typing import Any

import ray
import requests
from ray import serve
from ray.serve.context import _get_global_client  # `serve.status()` tells neither ports, routes nor environments
from urllib3.exceptions import InsecureRequestWarning

from cluster.control import runtime
from cluster.core.errors import InputError, JobError, nearest
from cluster.core.specs.endpoint import EndpointSpec
from serving.asgi import ARTIFACT_HEADER
from serving.endpoints import (
    CANARY,
    FAILED,
    STARTING,
    Endpoint,
    drain_seconds,
    from_details,
)
from serving.named import BESIDE
from serving.reasons import reason

POLL_SECONDS = 0.5
PROBE_SECONDS = 10.0
UNDEPLOY_SECONDS = 60.0  # beside the time that its requests may take


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
    """Take an endpoint down, its begun requests finished, and its canary and the models beside it. Serve stays, and
    with it the port, for the next endpoint.

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
    for other in left:
        if other == f"{name}{CANARY}" or other.startswith(f"{name}{BESIDE}"):
            undeploy(other)


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
