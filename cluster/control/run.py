"""Running a pipeline: what is missing is built, step by step, and nothing is built twice."""

from __future__ import annotations

import functools
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from cluster.control import clusters, runtime
from cluster.control.planning import prediction
from cluster.control.screen.view import View, make_view
from cluster.core import provenance
from cluster.core.ahead import Ahead
from cluster.core.build import build
from cluster.core.clusters.meant import CONTEXT
from cluster.core.errors import InputError, SpecError
from cluster.core.graph import Graph, Step, read_changes
from cluster.core.identity import references, usercode
from cluster.core.pipeline import Pipeline, prepare
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.draft import Draft
from cluster.core.storage.store import Store


def run(graph: Graph, store: Store, view: View) -> dict[str, Artifact]:
    """Build every step that is not in the store yet; return all artifacts by step key.

    A step that can be read early is built in the background while the next one reads it, if that one can. Raises
    SpecError before anything is built where a step that trains cannot fit into this machine, or a step names a function
    that cannot be imported.
    """
    provenance.code(), provenance.user_code()  # looked at now, and once: whoever edits meanwhile changes nothing
    prediction.require_fit(graph, store, prediction.find_hardware("", graph.scaling))
    _require_functions(graph, store)
    built: dict[str, Artifact] = {}
    ahead: tuple[str, Ahead] | None = None
    missing = [step for step in graph.steps if store.find(step.kind, step.fingerprint) is None]
    if missing:
        clusters.find().require_joinable()
    # What later steps need is not to be collected meanwhile; where nothing is built, nothing is written.
    with store.using(graph.targets) if missing else nullcontext(), view.running(graph.steps, missing):
        for number, step in enumerate(graph.steps):
            inputs = {n: i if isinstance(i, Artifact) else built[i.key] for n, i in step.inputs.items()}
            work = functools.partial(_build_step, graph, step, inputs, store, view)
            if _goes_ahead(graph, number, store):
                ahead = step.key, Ahead(Draft.of(step.spec, inputs, store, graph.name, step.named), work)
                built[step.key] = ahead[1].draft
                continue
            try:
                built[step.key] = work()
            except BaseException:
                if ahead:
                    ahead[1].raise_own()
                raise
            if ahead:
                built[ahead[0]], ahead = ahead[1].result(), None
    return built


def _require_functions(graph: Graph, store: Store) -> None:
    """Load every function that steps to build name. Here and not where a job is submitted from: that machine may lack
    what the functions import."""
    for step in graph.steps:
        if store.find(step.kind, step.fingerprint):
            continue
        for where, name in references.functions(step.spec).items():
            try:
                usercode.load(name)
            except InputError as error:
                raise SpecError(f"{step.key}.{where}: {error.message}", error.remedy) from error


def _build_step(graph: Graph, step: Step, inputs: dict[str, Artifact], store: Store, view: View) -> Artifact:
    clock = time.monotonic()
    found = store.find(step.kind, step.fingerprint)
    view.started(step.key)
    artifact = found or build(
        step.spec,
        inputs,
        store=store,
        scaling=graph.scaling,
        name=graph.name,
        named=step.named,
        report=functools.partial(view.progress, step.key),
        waiting=functools.partial(view.waiting, step.key),
        notice=functools.partial(view.notice, step.key),
    )
    if store.add_name(artifact, graph.name):
        view.notice(step.key, f"{artifact.kind}/{graph.name} is another name of {artifact.record.ref}")
    view.finished(step.key, artifact, time.monotonic() - clock, was_there=found is not None)
    return artifact


def _goes_ahead(graph: Graph, number: int, store: Store) -> bool:
    """Whether the step is to be built while the next one runs: both are missing, and the cluster has room for both."""
    if number + 1 == len(graph.steps):
        return False
    step, following = graph.steps[number : number + 2]
    reads = any(given is step for name, given in following.inputs.items() if name in following.spec.reads_early())
    if not (reads and step.spec.readable_early):
        return False
    if any(store.find(one.kind, one.fingerprint) for one in (step, following)):
        return False
    return runtime.has_room(graph.scaling)


def main(chosen: Pipeline) -> None:
    """Run a pipeline from its own script: `python pipelines/x.py [--config FILE] [--set a.b=c] [--name N]`."""
    import argparse
    import os

    from cluster.control.screen.console import guarded

    parser = argparse.ArgumentParser(description=chosen.__doc__)
    parser.add_argument("--config", type=Path, help="YAML file: step to fields")
    parser.add_argument("--set", action="append", default=[], metavar="STEP.FIELD=VALUE", help="override one field")
    parser.add_argument("--name", default="", help="name of the artifacts (default: the pipeline's)")
    parser.add_argument("--store", default=None, help="root of the artifact store")
    parser.add_argument("--context", default="", metavar="NAME", help="cluster that is meant")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_args()
    if arguments.context:
        os.environ[CONTEXT] = arguments.context

    def work() -> None:
        prepare(Path(sys.argv[0]))
        store = Store(arguments.store)
        graph = chosen.graph(store, read_changes(arguments.config, arguments.set), arguments.name)
        run(graph, store, make_view())

    sys.exit(guarded(work, debug=arguments.debug))
