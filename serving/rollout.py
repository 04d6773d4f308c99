"""Changing an endpoint that runs: how many replicas it has, which version answers, and back to the one before.

What an endpoint is made of stands in its replicas' environment, which Serve keeps (serving/endpoints.py); there is no
record of our own that could disagree with what runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from ray import serve

from cluster.control import runtime
from cluster.core.context import unheard
from cluster.core.errors import InputError, JobError, NotReadyError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import convert, override
from cluster.core.storage.store import Store
from serving.app import POLL_SECONDS, deploy, find, route_of, serve_details
from serving.application import application
from serving.endpoints import FAILED, Endpoint, origin, proxy_environment

RENDERED = "declarative"  # Serve's word for what a configuration file describes, as KubeRay's


def scale(name: str, least: int, most: int) -> Endpoint:
    """Have an endpoint run from `least` to `most` replicas, and return when there are as many.

    Those that run go on. Raises InputError where no endpoint is called so, JobError where the replicas do not start in
    time.
    """
    made_of = _made_of(name)
    spec = convert(made_of["spec"] | {"min_replicas": least, "max_replicas": most}, EndpointSpec, "endpoint")
    artifact = Store(made_of["store"]).get(made_of["kind"], made_of["fingerprint"])
    details = serve_details()
    same = {"version": made_of["version"], "before": made_of["before"], "proxy": proxy_environment(details)}
    target = application(spec, name, artifact, **same)
    serve._run(target, name=name, route_prefix=route_of(details, name), _blocking=False)
    deadline, pause = time.monotonic() + spec.start_timeout_seconds, threading.Event()
    while True:
        found = find(name)
        if least <= found.replicas <= most and found.status == "RUNNING":
            return found
        if found.status in FAILED:
            raise JobError(f"endpoint {name!r} failed: {found.message}", f"See `ctl serve logs {name}`.")
        if time.monotonic() > deadline:
            raise JobError(
                f"endpoint {name!r} has {found.replicas} replicas after {spec.start_timeout_seconds:.0f} s",
                f"See `ctl serve status {name}`; the cluster may have no room for more.",
            )
        pause.wait(POLL_SECONDS)  # Serve sends no event


def roll(
    name: str, ref: str = "", changes: dict[str, Any] | None = None, notice: Callable[[str], None] = unheard
) -> Endpoint:
    """Have another version answer under an endpoint's name: of `ref`, else of what the endpoint's own model means now,
    as an alias may; with other fields of its spec (`changes`).

    Raises InputError where no endpoint is called so or the artifact is missing, else as `deploy` does.
    """
    made_of = _made_of(name)
    spec = convert(made_of["spec"] | {"served_name": name}, EndpointSpec, "endpoint")
    spec = override(replace(spec, model=ref or spec.model), changes or {}, "endpoint")
    store = Store(made_of["store"])
    artifact = store.resolve(spec.model)
    if artifact.fingerprint == made_of["fingerprint"] and not changes:
        notice(f"{spec.model} is {artifact.record.ref}, which is what {name!r} serves: nothing changes")
        return find(name)
    return deploy(spec, store, artifact=artifact, notice=notice)


def rollback(name: str, notice: Callable[[str], None] = unheard) -> Endpoint:
    """Have the version before answer again, with the replicas that there are now. Once more goes forward again.

    Raises InputError where there was none.
    """
    made_of = _made_of(name)
    before = made_of["before"]
    if before is None:
        raise InputError(f"endpoint {name!r} has had no version before this one", "Roll to one: `ctl serve roll`.")
    kept = {field: made_of["spec"][field] for field in ("min_replicas", "max_replicas")}
    spec = convert(before["spec"] | kept | {"served_name": name}, EndpointSpec, "endpoint")
    store = Store(before["store"])
    return deploy(spec, store, artifact=store.get(before["kind"], before["fingerprint"]), notice=notice)


def _made_of(name: str) -> dict[str, Any]:
    """What an endpoint that can be changed here is made of. Raises InputError for none, NotReadyError for KubeRay's."""
    runtime.connect(ScalingSpec())
    find(name)
    details = serve_details() or {}
    source = details["applications"][name].get("source")
    if getattr(source, "value", source) == RENDERED:
        raise NotReadyError(
            f"endpoint {name!r} is described by a manifest, which would undo this",
            "Change the manifest: `ctl infra render`.",
        )
    found = origin(details, name)
    assert found is not None
    return found
