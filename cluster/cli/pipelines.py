"""`ctl plan` and `ctl run`: pipelines here and now."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.cli.options import Config, HardwareName, Name, Script, Sets, StoreRoot
from cluster.cli.output import AsJson, duration, print_json, print_table, size

if TYPE_CHECKING:
    from cluster.control.planning.plan import Planned
    from cluster.control.planning.prediction import Layout, Memory, Prediction
    from cluster.control.planning.rollouts import RolloutEngines
    from cluster.core.graph import Graph
    from cluster.core.storage.store import Store


def load(script: Script, config: Config, sets: Sets, name: str, store_root: str | None) -> "tuple[Graph, Store]":
    """Read a script and everything laid over it; nothing is built."""
    from cluster.core.graph import read_changes
    from cluster.core.pipeline import load_script
    from cluster.core.storage.store import Store

    store = Store(store_root)
    return load_script(script).graph(store, read_changes(config, sets or []), name), store


def plan(
    script: Script,
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
    hardware: HardwareName = "",
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show which steps of a pipeline are built, which would run and why, and what training needs.

    For a step that would train: memory of each worker, tokens per second, duration, and the ZeRO stage and micro-batch
    that suit it, on this machine or on GPUs named by --hardware. One that cannot fit is refused.
    """
    from cluster.control.planning.hardware import named
    from cluster.control.planning.plan import make_plan
    from cluster.control.planning.sizing import Asked, with_sizes
    from cluster.core.clusters.meant import price_per_hour

    if hardware:
        named(hardware)  # a wrong name is told before anything else
    graph, opened = load(script, config, set_, name, store)
    planned = make_plan(graph, opened)
    if not as_json:
        _print_table(planned)
    sized = with_sizes(planned, Asked(script, config, set_ or [], name, store, hardware))
    price = price_per_hour(graph.scaling)
    if as_json:
        print_json([item.as_dict() | _cost(item, price) for item in sized])
    else:
        for before, item in zip(planned, sized, strict=True):
            _print_size(item, item.reasons[len(before.reasons) :])
            for cost in _cost(item, price).values():
                print(f"  cost          {cost:,.2f}, at {price:,.2f} an hour")
    for item in sized:
        if item.prediction:
            item.prediction.require_fit(item.step.key)


def _print_table(planned: "list[Planned]") -> None:
    rows = []
    for item in planned:
        state = "built" if item.artifact else "to build"
        also = f", also as {item.step.kind}/{item.also_called}" if item.also_called else ""
        first, *others = [item.artifact.record.ref + also] if item.artifact else item.reasons
        rows.append((item.step.key, state, item.step.fingerprint[:12], first))
        rows += [("", "", "", reason) for reason in others]
    print_table(("step", "state", "fingerprint", "why"), rows, "The pipeline has no steps.")


def _print_size(item: "Planned", reasons: tuple[str, ...]) -> None:
    """What a step needs that would train, or why that is not known."""
    for reason in reasons:
        print(f"\n{item.step.key} is {reason}")
    if item.prediction:
        print()
        for line in _lines(item.step.key, item.prediction):
            print(line)


def _cost(item: "Planned", price_per_hour: float) -> dict[str, float]:
    """What a step will have cost when it has trained, where its time and the prices are known."""
    seconds = item.prediction and item.prediction.as_dict()["duration_seconds"]
    return {"cost": seconds / 3600 * price_per_hour} if seconds and price_per_hour else {}


def _lines(key: str, found: "Prediction") -> list[str]:
    """A prediction, for people."""
    numbers = found.as_dict()
    trained = "" if found.trained_parameters == found.parameters else f", {found.trained_parameters:,} of them trained"
    lines = [
        f"{key} on {found.hardware.name}",
        f"  parameters    {found.parameters:,}{trained}",
        f"  memory        {_told(found.memory, found.hardware.memory_bytes)}",
    ]
    if found.placed.host_memory:
        lines.append(f"  main memory   {_told(found.placed.host_memory, found.hardware.host_memory_bytes)}")
    if found.models:
        lines.append(f"  models        {', '.join(f'{name} {size(bytes)}' for name, bytes in found.models.items())}")
    if found.engines:
        lines.append(f"  engines       {_engines(found.engines)}")
    if found.instead:
        changes = found.instead.layout.changes(found.layout)
        lines.append(f"  instead       {changes} would need {found.instead.told()}")
    if numbers["tokens_per_second"] is not None:
        lines.append(f"  speed         {numbers['tokens_per_second']:,.0f} tokens a second")
    elif found.untimed:
        lines.append(f"  speed         not known: {found.untimed}")
    elif found.layout.offloads:
        lines.append("  speed         not known: what offloading costs is not modelled")
    else:
        lines.append("  speed         not known for this hardware")
    if numbers["duration_seconds"] is not None:
        lines.append(f"  duration      {duration(numbers['duration_seconds'])} for {found.tokens:,} tokens")
    if best := found.recommended:
        now = "as it is set" if best == found.layout else f"set: {_named(found.layout)}"
        lines.append(f"  recommended   {_named(best)} ({now})")
    else:
        lines.append("  recommended   more workers or memory: no ZeRO stage fits")
    for saving in found.savings:
        lines.append(f"  or spare      {size(saving.bytes)} a worker by {saving.setting}: {saving.price}")
    return lines


def _engines(found: "RolloutEngines") -> str:
    """What the rollout engines hold, for people."""
    where = "a GPU each" if found.on_gpus else "in main memory"
    room = f"{size(max(0, found.kv_cache))}: {found.sequences:,} sequences of {found.sequence_tokens:,} tokens at once"
    return f"{found.number} of {size(found.total)}, {where} (weights {size(found.weights)}, KV cache {room})"


def _told(memory: "Memory", there: int) -> str:
    """Of one memory of a worker: how much of how much, and for what."""
    parts = ", ".join(f"{name} {size(value)}" for name, value in asdict(memory).items() if value)
    if not there:
        return f"{size(memory.total)} a worker, of how much is not known ({parts})"
    fits = "" if memory.total <= there else ": too much as it is set"
    return f"{size(memory.total)} of {size(there)} a worker{fits} ({parts})"


def _named(layout: "Layout") -> str:
    named = [f"ZeRO {layout.zero_stage}, micro-batches of {layout.micro_batch_size}"]
    named += ["activation checkpointing"] if layout.activation_checkpointing else []
    named += ["optimizer in main memory"] if layout.offload_optimizer == "cpu" else []
    named += ["weights in main memory"] if layout.offload_parameters == "cpu" else []
    return ", ".join(named)


def run(
    script: Script,
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
    store: StoreRoot = None,
) -> None:
    """Run a pipeline on this machine; finished steps are taken from the store, a killed one resumes."""
    from cluster.control.run import run as run_graph
    from cluster.control.screen.view import make_view

    graph, opened = load(script, config, set_, name, store)
    run_graph(graph, opened, make_view())
