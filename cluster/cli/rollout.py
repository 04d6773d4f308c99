"""`ctl serve plan | status | scale | roll | rollback | load | logs`: an endpoint before it runs, and while it does."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.options import ChangeTask, StoreRoot
from cluster.cli.output import AsJson, duration, print_json, print_table, size
from cluster.cli.served import changes_of, join_cluster, serve_details, spec_of, tell

if TYPE_CHECKING:
    from serving.endpoints import Endpoint
    from serving.named import Named
    from serving.replicas import Replica

ACTORS_PATH = (
    "/api/v0/actors?detail=1&limit=1000&timeout=10&filter_keys=ray_namespace&filter_predicates=%3D&filter_values=serve"
)
LOG_PATH = "/api/v0/logs/file?node_id={node_id}&filename={file}&lines={lines}&timeout=30"
WHERE = {"own": "an alias", "adapter": "an adapter in its engine", "application": "an engine of its own"}
LOG_SECONDS = (5.0, 60.0)

Endpoint_ = Annotated[str, typer.Argument(metavar="NAME", help="Endpoint, as `ctl serve list` names it.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="endpoint.FIELD=VALUE", help="Override a field; may be repeated."),
]


def plan(
    model: Annotated[str, typer.Argument(help="Artifact: alias, kind/name, name, or fingerprint.")],
    name: Annotated[str, typer.Option("--name", help="Name for clients [default: the artifact's].")] = "",
    set_: Sets = None,
    as_json: AsJson = False,
    store: StoreRoot = None,
) -> None:
    """Check an endpoint and show what it would take, without starting anything."""
    import msgspec

    from cluster.core.specs.spec import fields
    from cluster.core.storage.store import Store
    from serving.engine import check_served, plain_reason
    from serving.footprint import footprint

    spec = spec_of(model, None, name, set_ or [])
    artifact = Store(store).resolve(spec.model)
    if not plain_reason(artifact):
        check_served(spec, artifact)
    took = footprint(spec, artifact)
    called = spec.served_name or artifact.name
    if as_json:
        print_json({"name": called, "artifact": artifact.record.ref, "replica": msgspec.to_builtins(took),
                    "spec": fields(spec)})  # fmt: skip
        return
    number = _span(spec.min_replicas, spec.max_replicas)
    held = took.weight_bytes + took.cache_bytes
    rows = [
        ("name", called),
        ("artifact", artifact.record.ref),
        ("engine", f"{took.engine}, {took.dtype}"),
        ("replicas", number),
        ("of each", f"{took.cpus:g} CPUs, {took.gpus} GPUs"),
        ("weights", size(took.weight_bytes)),
    ]
    if took.cache_bytes:
        room = f", {took.cache_tokens:,} tokens" if took.cache_tokens else ""
        rows.append(("KV cache", f"{size(took.cache_bytes)}{room}"))
    elif took.kv_bytes_per_token:
        rows.append(("KV cache", f"{size(took.kv_bytes_per_token)} a token, of what the GPU has left"))
    longest = f", {spec.max_wait_seconds:g} s at most" if spec.max_wait_seconds else ""
    if took.context_tokens:
        fits = took.cache_tokens // took.context_tokens
        rows.append(("context", f"{took.context_tokens:,} tokens" + (f", {fits:,} of full length" if fits else "")))
    rows += [
        ("all", f"{size(held * spec.min_replicas)}, while it is rolled {size(2 * held * spec.min_replicas)}"),
        ("queue", f"{spec.max_running or 'as many as the engine takes'} at once, {spec.max_queued} wait{longest}"),
        ("keys", "asked for" if spec.access.keys else "none: whoever reaches it may use it"),
    ]
    print_table(("endpoint", ""), rows, "")


def status(name: Endpoint_, as_json: AsJson = False) -> None:
    """Show an endpoint's replicas: what each serves, since when, how many requests it has; and the last errors."""
    import msgspec

    from cluster.control import clusters
    from cluster.control.runtime import connect
    from cluster.core.specs.scaling import ScalingSpec
    from serving.endpoints import from_details, models_of, origin
    from serving.replicas import with_ongoing

    details = serve_details()
    found = _replicas(details, name)
    if clusters.find().joinable:
        join_cluster()
        connect(ScalingSpec())
        found = with_ongoing(found)
    (endpoint,) = (each for each in from_details(details) if each.name == name)
    made_of, models = origin(details, name), models_of(details, name)
    before = (made_of or {}).get("before")
    back_to = f"{before['kind']}/{before['fingerprint'][:12]}" if before else ""
    if as_json:
        told = {**msgspec.to_builtins(endpoint), "before": back_to, "models": models}
        print_json(told | {"replicas": msgspec.to_builtins(found)})
        return
    spec = made_of["spec"] if made_of else {}
    wanted = _span(spec["min_replicas"], spec["max_replicas"]) if spec else "?"
    print(f"{name}: {endpoint.status}, {endpoint.replicas} of {wanted} replicas, {endpoint.base_url}")
    print(f"serves {endpoint.model}" + (f"; before it {back_to}" if back_to else ""))
    for each in models:
        print(f"{each['name']}: {each['ref']}, {WHERE[each['place']]}")
    rows = [
        (each.id, each.state, each.model, duration(time.time() - each.started_at), each.node_ip, each.pid or "",
         "" if each.ongoing is None else each.ongoing)
        for each in found
    ]  # fmt: skip
    print_table(("replica", "state", "artifact", "for", "node", "pid", "ongoing"), rows, "No replicas.")
    if endpoint.message:
        print(endpoint.message)


def scale(
    name: Endpoint_,
    replicas: Annotated[str, typer.Argument(help="How many, or MIN..MAX for autoscaling.")],
) -> None:
    """Change how many replicas an endpoint has. Those that run go on; those that go finish what they have begun."""
    from serving.rollout import scale

    least, most = _span_of(replicas)
    _join()
    _say(scale(name, least, most))


def roll(
    name: Endpoint_,
    ref: Annotated[
        str, typer.Argument(help="Artifact to serve [default: the endpoint's own model, as an alias means it now].")
    ] = "",
    set_: Sets = None,
    change_task: ChangeTask = False,
) -> None:
    """Have another version answer under the same name: it starts beside the one that runs, which then goes."""
    from serving.rollout import roll

    _join()
    _say(roll(name, ref, changes_of(set_ or []), change_task=change_task, notice=tell))


def canary(
    name: Endpoint_,
    ref: Annotated[str, typer.Argument(help="Artifact that answers the share [default: the canary that stands].")] = "",
    weight: Annotated[float, typer.Option("--weight", min=0, max=1, help="Part of the requests.")] = 0.1,
    shadow: Annotated[
        bool,
        typer.Option("--shadow", help="Send it copies, and keep pairs of answers; clients get the usual ones."),
    ] = False,
) -> None:
    """Have another version answer a share of the requests; a conversation stays with its version."""
    from serving.rollout import canary

    _join()
    canary(name, ref, weight, shadow=shadow, notice=tell)


def promote(
    name: Endpoint_,
    condition: Annotated[
        str,
        typer.Option("--if", help="Figures that it must have, as 'p95_ttft_seconds <= 0.5 and heldout_reward >= 0.6'."),
    ] = "",
    figures: Annotated[bool, typer.Option("--figures", help="Show the figures, and change nothing.")] = False,
) -> None:
    """Have the canary's version answer everything, where its figures are good enough."""
    from serving.rollout import canary_figures, promote

    _join()
    if figures:
        rows = [(figure, f"{value:.4g}") for figure, value in sorted(canary_figures(name).items())]
        print_table(("figure", "value"), rows, "")
        return
    _say(promote(name, condition, tell))


def rollback(name: Endpoint_) -> None:
    """End the canary, if there is one; else have the version before answer again."""
    from serving.rollout import rollback

    _join()
    _say(rollback(name, tell))


def load(
    name: Endpoint_,
    model: Annotated[
        str, typer.Argument(metavar="MODEL=ARTIFACT", help="What clients give as `model`, and what answers to it.")
    ],
    change_task: ChangeTask = False,
) -> None:
    """Have an endpoint answer to one more name, or to a name by another model, while it runs.

    The endpoint's own artifact makes an alias. A LoRA adapter over it goes into the running engine, where
    endpoint.max_adapters leaves room. Any other model gets an engine of its own.
    """
    from cluster.core.errors import UsageError
    from serving.rollout import load

    called, _, ref = model.partition("=")
    if not called or not ref:
        raise UsageError(f"{model!r}: no name and artifact", "Write support=sft/support.")
    _join()
    _models(name, load(name, called, ref, change_task=change_task, notice=tell))


def unload(
    name: Endpoint_,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What clients gave as `model`.")],
) -> None:
    """Have an endpoint answer to a name no more. What has begun is finished."""
    from serving.rollout import unload

    _join()
    _models(name, unload(name, model))


def _models(name: str, models: "list[Named]") -> None:
    told = ", ".join(f"{each.name} ({each.ref})" for each in models)
    print(f"{name}: " + (f"beside its own model {told}" if told else "no model beside its own"), flush=True)


def logs(
    name: Endpoint_,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines of each replica, from the end.")] = 100,
    replica: Annotated[str, typer.Option("--replica", help="Of this one only, as `status` names it.")] = "",
) -> None:
    """Print the logs of an endpoint's replicas, of those that have ended lately, too."""
    from cluster.control.dashboard import dashboard_url, get, lost
    from cluster.core.errors import InputError, nearest

    found = _replicas(serve_details(), name)
    if replica:
        ids = [each.id for each in found]
        found = [each for each in found if each.id == replica]
        if not found:
            raise InputError(f"{name!r} has no replica {replica!r}", nearest(replica, ids) if ids else "It has none.")
    url = dashboard_url()
    for each in found:
        print(f"==> {each.id}, {each.state}")
        if not each.log_file:
            continue
        path = LOG_PATH.format(node_id=each.node_id, file=each.log_file, lines=lines)
        with lost(url):
            reply = get(url + path, timeout=LOG_SECONDS)
            told = reply.text if reply.ok else f"its log cannot be read: HTTP {reply.status_code}"
        print(told.rstrip("\n"))


def _replicas(details: dict[str, Any], name: str) -> list["Replica"]:
    from cluster.control.dashboard import dashboard_url, request
    from serving.replicas import replicas

    told = request("GET", dashboard_url(), ACTORS_PATH) or {}
    return replicas(details, name, told.get("data", {}).get("result", {}).get("result", []))


def _join() -> None:
    from cluster.core.errors import NotReadyError

    if not join_cluster():
        raise NotReadyError(
            "no Ray cluster is running here", "Start one with `ctl up`, or name one (`--context`, RAY_ADDRESS)."
        )


def _say(endpoint: "Endpoint") -> None:
    print(f"{endpoint.name}: {endpoint.replicas} replicas serve {endpoint.model} at {endpoint.base_url}", flush=True)


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _span_of(text: str) -> tuple[int, int]:
    """The least and the most of `N` or `MIN..MAX`. Raises UsageError."""
    from cluster.core.errors import UsageError

    least, _, most = text.partition("..")
    if not least.isdecimal() or (most and not most.isdecimal()) or not 1 <= int(least) <= int(most or least):
        raise UsageError(f"{text!r} replicas", "Give a number, or MIN..MAX as in 1..4.")
    return int(least), int(most or least)


COMMANDS: tuple[Callable[..., None], ...] = (plan, status, scale, roll, canary, promote, rollback, load, unload, logs)
