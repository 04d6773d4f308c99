"""The models that an endpoint has beside its own: found in the store, started, and ended again.

Which they are stands in Serve's configuration of the endpoint (`user_config`), which changes without a new replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace
from ray import serve

from cluster.core.errors import InputError, NotReadyError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.adapters import fits
from serving.app import await_ready, has_room, hush, serve_details, undeploy
from serving.application import application
from serving.endpoints import models_of, origin
from serving.named import ADAPTER, APPLICATION, BESIDE, OWN, Named, Place
from serving.tasks import tasks

Notice = Callable[[str], None]


def resolved(models: Mapping[str, str], spec: EndpointSpec, name: str, own: Artifact, store: Store) -> list[Named]:
    """What answers to each name: of references into a store. Raises InputError for what is not there, or a name that
    the endpoint's own model has."""
    found = []
    for called, ref in models.items():
        if called == name:
            raise InputError(f"endpoint.models.{called}: that is the endpoint's own name", "Give another name.")
        artifact = store.resolve(ref)
        own_model = artifact.fingerprint == own.fingerprint
        place: Place = OWN if own_model else ADAPTER if fits(artifact, own, spec) else APPLICATION
        found.append(
            Named(name=called, ref=artifact.record.ref, place=place, store=artifact.store_url, kind=artifact.kind,
                  fingerprint=artifact.fingerprint, tasks=tasks(artifact))
        )  # fmt: skip
    if (number := sum(each.place == ADAPTER for each in found)) > spec.max_adapters:
        raise InputError(
            f"endpoint.models: {number} adapters, and endpoint.max_adapters is {spec.max_adapters}", "Raise it."
        )
    return found


def start(named: Iterable[Named], spec: EndpointSpec, name: str, proxy: dict[str, str], notice: Notice) -> None:
    """Have the models answer that are applications of their own, and return when they do; those that run go on.

    Raises NotReadyError where the cluster has no room for one, JobError where one does not start.
    """
    hush()
    for each in named:
        if each.place == ADAPTER:
            notice(f"{each.name}: {each.ref} is computed by the endpoint's own engine, as an adapter")
        if each.place != APPLICATION:
            continue
        called = f"{name}{BESIDE}{each.name}"
        if (runs := origin(serve_details(), called)) and runs["fingerprint"] == each.fingerprint:
            continue
        if not (runs or has_room(spec)):
            raise NotReadyError(
                f"the cluster has no room for {each.name!r} beside {name!r}: it takes {spec.cpus:g} CPUs and"
                f" {spec.gpus} GPUs",
                "Add nodes, or scale something down.",
            )
        notice(f"{each.name}: {each.ref} gets an engine of its own")
        own = replace(spec, model=each.ref, served_name=each.name, models={}, max_adapters=0, scorer="")
        artifact = Store(each.store).get(each.kind, each.fingerprint)
        target = application(own, each.name, artifact, surge=runs is None or has_room(spec), proxy=proxy)
        serve._run(target, name=called, route_prefix=None, _blocking=False)
        await_ready(called, spec.start_timeout_seconds, replaces=runs is not None, routed=False)


def end_others(name: str, named: Iterable[Named]) -> None:
    """Take down the applications of models that the endpoint has no more."""
    kept = {f"{name}{BESIDE}{each.name}" for each in named if each.place == APPLICATION}
    for called in (serve_details() or {}).get("applications", {}):
        if called.startswith(f"{name}{BESIDE}") and called not in kept:
            undeploy(called)


def live_models(details: dict[str, Any] | None, name: str) -> list[Named]:
    """The models that an endpoint has beside its own."""
    return msgspec.convert(models_of(details, name), list[Named])
