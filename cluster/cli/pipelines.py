"""`ctl plan` and `ctl run`: pipelines here and now."""

from typing import TYPE_CHECKING

from cluster.cli.options import Config, Name, Script, Sets, StoreRoot
from cluster.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from cluster.graph import Graph
    from cluster.store import Store


def load(script: Script, config: Config, sets: Sets, name: str, store_root: str | None) -> "tuple[Graph, Store]":
    """Read a script and everything laid over it; nothing is built."""
    from cluster.graph import read_changes
    from cluster.pipeline import load_script
    from cluster.store import Store

    store = Store(store_root)
    return load_script(script).graph(store, read_changes(config, sets or []), name), store


def plan(
    script: Script,
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show which steps of a pipeline are built, which would run, and why, field by field."""
    from cluster.plan import make_plan

    graph, opened = load(script, config, set_, name, store)
    planned = make_plan(graph, opened)
    if as_json:
        print_json([item.as_dict() for item in planned])
        return
    rows = []
    for item in planned:
        state = "built" if item.artifact else "to build"
        first, *others = [item.artifact.record.ref] if item.artifact else item.reasons
        rows.append((item.step.key, state, item.step.fingerprint[:12], first))
        rows += [("", "", "", reason) for reason in others]
    print_table(("step", "state", "fingerprint", "why"), rows, "The pipeline has no steps.")


def run(
    script: Script,
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
    store: StoreRoot = None,
) -> None:
    """Run a pipeline on this machine; finished steps are taken from the store, a killed one goes on."""
    from cluster.pipeline import run as run_graph
    from cluster.view import make_view

    graph, opened = load(script, config, set_, name, store)
    run_graph(graph, opened, make_view())
