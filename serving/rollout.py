"""Changing an endpoint that runs: how many replicas it has, which version answers, which models beside it.

What an endpoint is made of stands in its replicas' environment, which Serve keeps (serving/endpoints.py); there is no
record of our own that could disagree with what runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace
from ray import serve
from ray.exceptions import RayError

from cluster.control import runtime
from cluster.core.context import unheard
from cluster.core.errors import InputError, JobError, NotReadyError, nearest
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import convert, override
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.app import POLL_SECONDS, await_ready, find, has_room, hush, route_of, serve_details, undeploy
from serving.application import application
from serving.beside import end_others, live_models, resolved, start
from serving.deploying import deploy
from serving.endpoints import CANARY, FAILED, Endpoint, environment_of, origin, share_of
from serving.figures import holds, with_metrics
from serving.named import ADAPTER, Named
from serving.split import Share
from serving.tasks import check_named, check_tasks, tasks

Notice = Callable[[str], None]
SHARE_SECONDS = 60.0
FIGURES_SECONDS = 10.0
RENDERED = "declarative"  # Serve's word for what a configuration file describes, as KubeRay's


def scale(name: str, least: int, most: int) -> Endpoint:
    """Have an endpoint run from `least` to `most` replicas, and return when there are as many.

    Those that run go on. Raises InputError where no endpoint is called so, JobError where the replicas do not start in
    time.
    """
    made_of = _made_of(name)
    spec = convert(made_of["spec"] | {"min_replicas": least, "max_replicas": most}, EndpointSpec, "endpoint")
    details = serve_details()
    _deploy_same(details, name, made_of, spec)
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
    name: str,
    ref: str = "",
    changes: dict[str, Any] | None = None,
    *,
    change_task: bool = False,
    notice: Notice = unheard,
) -> Endpoint:
    """Have another version answer under an endpoint's name: of `ref`, else of what the endpoint's own model means now,
    as an alias may; with other fields of its spec (`changes`).

    Raises InputError where no endpoint is called so or the artifact is missing, else as `deploy` does.
    """
    made_of = _made_of(name)
    spec = convert(made_of["spec"] | {"served_name": name, "models": _models(name)}, EndpointSpec, "endpoint")
    spec = override(replace(spec, model=ref or spec.model), changes or {}, "endpoint")
    store = Store(made_of["store"])
    artifact = store.resolve(spec.model)
    if artifact.fingerprint == made_of["fingerprint"] and not changes:
        notice(f"{spec.model} is {artifact.record.ref}, which is what {name!r} serves: nothing changes")
        return find(name)
    return deploy(spec, store, artifact=artifact, change_task=change_task, notice=notice)


def rollback(name: str, notice: Notice = unheard) -> Endpoint:
    """End a canary; without one have the version before answer again, with the replicas that there are now. Once more
    goes forward again.

    Raises InputError where there was none.
    """
    made_of = _made_of(name)
    if _has_canary(name):
        _end_canary(name, made_of)
        notice(f"the canary of {name!r} is gone")
        return find(name)
    before = made_of["before"]
    if before is None:
        raise InputError(f"endpoint {name!r} has had no version before this one", "Roll to one: `ctl serve roll`.")
    kept = _kept(name, made_of)
    spec = convert(before["spec"] | kept | {"served_name": name}, EndpointSpec, "endpoint")
    store = Store(before["store"])
    artifact = store.get(before["kind"], before["fingerprint"])
    return deploy(spec, store, artifact=artifact, change_task=True, notice=notice)  # what it did was asked for


def canary(name: str, ref: str, weight: float, *, shadow: bool = False, notice: Notice = unheard) -> Endpoint:
    """Have another version answer a share of an endpoint's requests, or (`shadow`) a copy of them, from now on.

    Without `ref` the canary that stands gets another share. Raises InputError where there is none, NotReadyError where
    the cluster has no room for it, JobError where it does not start.
    """
    made_of, application_name = _made_of(name), f"{name}{CANARY}"
    details = serve_details()
    if ref:
        # It answers clients alone, to one name, and no batches.
        beside = {"models": {}, "max_adapters": 0, "batches": {}}
        changes = {"model": ref, "min_replicas": 1, "max_replicas": 1, **beside}
        spec = convert(made_of["spec"] | changes, EndpointSpec, "endpoint")
        artifact = Store(made_of["store"]).resolve(ref)
        remedy = f"It would refuse its share. Load it beside: `ctl serve load {name} NAME={ref}`."
        check_tasks(f"endpoint {name!r}", made_of["tasks"], artifact.record.ref, tasks(artifact), remedy)
        if not (_has_canary(name) or has_room(spec)):
            raise NotReadyError(
                f"the cluster has no room for a canary of {name!r}: it takes {spec.cpus:g} CPUs and {spec.gpus} GPUs",
                "Add nodes, or scale something down.",
            )
        hush()
        target = application(spec, name, artifact, proxy=environment_of(details, name))
        serve._run(target, name=application_name, route_prefix=None, _blocking=False)
        await_ready(application_name, spec.start_timeout_seconds, routed=False)
    elif not _has_canary(name):
        raise InputError(f"endpoint {name!r} has no canary", "Give the artifact that it is to serve.")
    share = Share(application=application_name, weight=weight, shadow=shadow)
    _deploy_same(details, name, made_of, share=msgspec.to_builtins(share))
    await_ready(name, SHARE_SECONDS, replaces=True)
    found = find(application_name)
    notice(f"{found.model} {'is asked' if shadow else 'answers'} {weight:.0%} of what {name!r} is asked")
    return found


def canary_figures(name: str) -> dict[str, float]:
    """What came of a canary and of the version that stands, since the canary does, and what their artifacts tell of
    themselves. Raises InputError where there is none."""
    _made_of(name)
    if not _has_canary(name):
        raise InputError(f"endpoint {name!r} has no canary", "Start one: `ctl serve canary`.")
    hush()
    keeper = serve.get_deployment_handle("Keeper", name)
    found: dict[str, float] = keeper.figures.remote(f"{name}{CANARY}").result(timeout_s=FIGURES_SECONDS)
    details = serve_details()
    made_of, stable = origin(details, f"{name}{CANARY}"), origin(details, name)
    assert made_of is not None and stable is not None
    return with_metrics(found, _artifact(made_of).record.metrics, _artifact(stable).record.metrics)


def promote(name: str, condition: str = "", notice: Notice = unheard) -> Endpoint:
    """Have the canary's version answer everything, where its figures meet the condition.

    Raises JobError where they do not: nothing changes then.
    """
    figures = canary_figures(name)
    if condition:
        met, told = holds(condition, figures)
        if not met:
            raise JobError(f"not promoted: {told}", "It goes on as a canary; `ctl serve rollback` ends it.")
        notice(told)
    made_of, canary_made_of = _made_of(name), origin(serve_details(), f"{name}{CANARY}")
    assert canary_made_of is not None
    kept = _kept(name, made_of)
    spec = convert(canary_made_of["spec"] | kept | {"served_name": name}, EndpointSpec, "endpoint")
    artifact = _artifact(canary_made_of)
    _end_canary(name, made_of)  # the room that it has is wanted
    return deploy(spec, Store(canary_made_of["store"]), artifact=artifact, notice=notice)


def load(name: str, called: str, ref: str, *, change_task: bool = False, notice: Notice = unheard) -> list[Named]:
    """Have an endpoint answer to another name as well, or to one that it has by another model; all of its models.

    Raises InputError where no endpoint is called so or the artifact is missing, and for one that does not do what
    answers to the name until now (`change_task` lets it); else as `start` does.
    """
    found, details = _made_of(name), serve_details()
    spec = convert(found["spec"], EndpointSpec, "endpoint")
    store = Store(found["store"])
    own = store.get(found["kind"], found["fingerprint"])
    models = {each.name: each for each in live_models(details, name)}
    others = {each.name: each.ref for each in models.values() if each.name != called}
    named = resolved({**others, called: ref}, spec, name, own, store)
    (wanted,) = [each for each in named if each.name == called]
    if not change_task:
        check_named(name, models.values(), [wanted])
    start([wanted], spec, name, environment_of(details, name), notice)
    if wanted.place == ADAPTER:  # before every replica has to: where it does not go in, nothing changes
        hush()
        handle = serve.get_deployment_handle("Vllm", name)
        try:
            handle.try_adapter.remote(msgspec.to_builtins(wanted)).result(timeout_s=spec.start_timeout_seconds)
        except RayError as error:
            why = (str(error).strip().splitlines() or ["no reason given"])[-1]
            raise JobError(
                f"the engine of {name!r} does not take {wanted.ref}: {why}", "Nothing has changed."
            ) from None
    after = [*(models[each.name] for each in named if each is not wanted), wanted]
    _deploy_same(details, name, found, models=after)
    await_ready(name, spec.start_timeout_seconds, replaces=True)
    end_others(name, after)
    return after


def unload(name: str, called: str) -> list[Named]:
    """Have an endpoint answer to a name no more; what it has begun is finished. All of its models that are left.

    Raises InputError where it has no such model.
    """
    found, details = _made_of(name), serve_details()
    models = live_models(details, name)
    if called not in (names := [each.name for each in models]):
        raise InputError(f"endpoint {name!r} has no model {called!r} beside its own", nearest(called, names))
    left = [each for each in models if each.name != called]
    _deploy_same(details, name, found, models=left)
    await_ready(name, float(found["spec"]["start_timeout_seconds"]), replaces=True)
    end_others(name, left)
    return left


def _artifact(made_of: dict[str, Any]) -> Artifact:
    return Store(made_of["store"]).get(made_of["kind"], made_of["fingerprint"])


def _models(name: str) -> dict[str, str]:
    """The models of an endpoint beside its own, as a spec has them."""
    return {each.name: each.ref for each in live_models(serve_details(), name)}


def _kept(name: str, made_of: dict[str, Any]) -> dict[str, Any]:
    """Fields of the spec that stay when another version answers: replicas, batches, and the models beside it."""
    stay = ("min_replicas", "max_replicas", "max_adapters", "max_adapter_rank", "batches")
    return {field: made_of["spec"][field] for field in stay if field in made_of["spec"]} | {"models": _models(name)}


def _has_canary(name: str) -> bool:
    return f"{name}{CANARY}" in (serve_details() or {}).get("applications", {})


def _end_canary(name: str, made_of: dict[str, Any]) -> None:
    """Pass nothing on any more, and then take the canary down."""
    _deploy_same(serve_details(), name, made_of, share=None)
    await_ready(name, SHARE_SECONDS, replaces=True)
    undeploy(f"{name}{CANARY}")


def _deploy_same(
    details: dict[str, Any] | None,
    name: str,
    made_of: dict[str, Any],
    spec: EndpointSpec | None = None,
    *,
    share: dict[str, Any] | Literal["kept"] | None = "kept",
    models: Sequence[Named] | None = None,
) -> None:
    """Deploy an endpoint in the version that runs, so that its replicas go on; with another share, or other models."""
    hush()
    share = share_of(details, name) if share == "kept" else share
    spec = spec or convert(made_of["spec"], EndpointSpec, "endpoint")
    target = application(
        spec,
        name,
        _artifact(made_of),
        version=made_of["version"],
        before=made_of["before"],
        proxy=environment_of(details, name),
        share=msgspec.convert(share, Share) if share else None,
        models=live_models(details, name) if models is None else models,
    )
    serve._run(target, name=name, route_prefix=route_of(details, name), _blocking=False)


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
