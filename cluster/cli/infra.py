"""`ctl infra`: manifests for KubeRay, a check of them without a cluster, their way to one, the endpoints' dashboard."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import group
from cluster.cli.options import ChangeTask, Config, Name, Sets
from cluster.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from cluster.kubernetes.objects import Order

infra = group("Kubernetes: manifests for KubeRay, and a check without a cluster; the dashboard of endpoints.")


@infra.command()
def render(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for base/ and overlays/.", show_default=False)],
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
) -> None:
    """Write the manifests of a run and an endpoint, for kustomize.

    The pipeline's steps, `scaling`, `endpoint` and `infra` come from --config and --set.
    """
    from cluster.core.graph import read_changes
    from cluster.kubernetes.tree import tree, write

    files = tree(_order(read_changes(config, set_ or []), name))
    write(files, out)
    for path in files:
        print(out / path)


def _order(changes: dict[str, Any], name: str) -> "Order":
    from cluster.core.graph import INPUTS
    from cluster.core.pipeline import load_script
    from cluster.core.provenance import PROJECT_ROOT
    from cluster.core.specs.endpoint import EndpointSpec
    from cluster.core.specs.infra import InfraSpec
    from cluster.core.specs.spec import fields, override
    from cluster.core.storage.store import Store
    from cluster.kubernetes.objects import Order

    spec = override(InfraSpec(), changes.pop("infra", None) or {}, "infra")
    endpoint = changes.pop("endpoint", None) or {}
    graph = load_script(PROJECT_ROOT / spec.pipeline).graph(Store(spec.store or None), changes, name)
    for step in graph.steps:
        step.spec.check_scaling(graph.scaling)  # before a cluster is asked for
    run = {step.key: fields(step.spec) for step in graph.steps} | {"scaling": fields(graph.scaling)}
    for key, given in changes.items():
        if INPUTS in given:
            run[key][INPUTS] = given[INPUTS]
    built_last = f"{graph.steps[-1].kind}/{graph.name}"
    return Order(
        infra=spec,
        scaling=graph.scaling,
        endpoint=override(EndpointSpec(model=built_last), endpoint, "endpoint"),
        run=run,
        run_name=graph.name,
    )


Kubeconfig = Annotated[str, typer.Option("--kubeconfig", help="Empty: $KUBECONFIG or ~/.kube/config.")]
Context = Annotated[str, typer.Option("--context", help="Of the kubeconfig; empty: its current one.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Empty: the one in the manifests, or the context's.")]
Component = Annotated[
    str, typer.Option("--component", help="cluster, job or endpoint, with what all share; empty: everything.")
]
Manifests = Annotated[list[Path], typer.Argument(help="Files or folders of manifests; - reads them from stdin.")]


@infra.command()
def apply(
    paths: Manifests,
    component: Component = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
    namespace: Namespace = "",
    force: Annotated[bool, typer.Option("--force", help="Take over fields that somebody else has changed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="The server checks, and changes nothing.")] = False,
    change_task: ChangeTask = False,
) -> None:
    """Make a Kubernetes what manifests say, by server-side apply."""
    from cluster.kubernetes.api import Api

    bodies = _bodies(paths, component, namespace)
    api = Api(kubeconfig, context, namespace)
    for body in bodies:
        if body["kind"] == "RayService" and not change_task and (before := api.find(body)):
            from cluster.cli.served import tell
            from cluster.kubernetes.successor import check_successor

            check_successor(before, body, tell)
    for body in bodies:
        api.apply(body, dry_run=dry_run, force=force)
        print(f"{body['kind']}/{body['metadata']['name']} {'would be' if dry_run else 'is'} as the manifest says")


@infra.command()
def diff(
    paths: Manifests,
    component: Component = "",
    kubeconfig: Kubeconfig = "",
    context: Context = "",
    namespace: Namespace = "",
) -> None:
    """Show what `ctl infra apply` would change."""
    from difflib import unified_diff

    from cluster.kubernetes.api import Api, comparable
    from cluster.kubernetes.text import to_yaml

    bodies = _bodies(paths, component, namespace)
    api = Api(kubeconfig, context, namespace)
    for body in bodies:
        there = comparable(api.find(body))
        then = comparable(api.apply(body, dry_run=True, force=True))
        old, new = ((to_yaml(each) if each else "").splitlines() for each in (there, then))
        name = f"{body['kind']}/{body['metadata']['name']}"
        for line in unified_diff(old, new, f"{name} there", f"{name} then", lineterm=""):
            print(line)


@infra.command()
def watch(
    name: Annotated[str, typer.Argument(help="The RayJob, as in its manifest.")],
    kubeconfig: Kubeconfig = "",
    context: Context = "",
    namespace: Namespace = "",
) -> None:
    """Follow a RayJob to its end, with what it waits for: a node, an image, Kueue's quota. Exits with 5 if it fails."""
    from cluster.kubernetes.api import Api
    from cluster.kubernetes.following import follow

    for line in follow(Api(kubeconfig, context, namespace), name):
        print(line, flush=True)


def _bodies(paths: list[Path], component: str, namespace: str) -> list[dict[str, Any]]:
    """The manifests of a component and of what all share, in the order in which they can be applied."""
    from cluster.core.errors import InputError
    from cluster.kubernetes.api import placed
    from cluster.kubernetes.documents import read
    from cluster.kubernetes.pods import COMPONENT

    found = [document.body for path in paths for document in read(path)]
    if component:
        wanted = (component, "common")
        found = [b for b in found if (b.get("metadata", {}).get("labels") or {}).get(COMPONENT) in wanted]
    if not found:
        raise InputError(f"{', '.join(map(str, paths))}: no manifests there", "Render them: `ctl infra render`.")
    return placed(found, namespace)


@infra.command()
def dashboard(
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")] = Path("endpoints.json"),
) -> None:
    """Write the Grafana dashboard of endpoints, which Grafana imports as JSON."""
    from serving.watching.dashboard import text

    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text())
    print(out)


@infra.command()
def validate(
    paths: Manifests,
    crds: Annotated[Path | None, typer.Option("--crds", help="KubeRay's CRDs: a file or a folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check manifests without a cluster.

    Exits with 3 where one would be refused, or gives a secret away. Warnings do not count.
    """
    from cluster.core.errors import InputError, SpecError
    from cluster.kubernetes.documents import read
    from cluster.kubernetes.schema import read_crds
    from cluster.kubernetes.validate import validate as check

    schemas = read_crds(crds) if crds else {}
    report = check((document for path in paths for document in read(path)), schemas)
    if not report.documents:
        raise InputError(f"{', '.join(map(str, paths))}: no manifests there", "What wrote them has probably failed.")
    if as_json:
        print_json({"findings": [finding.as_dict() for finding in report.findings], "notes": report.notes})
    else:
        for line in (*report.findings, *(f"note: {note}" for note in report.notes)):
            print(line)
    if report.errors:
        raise SpecError(f"{report.errors} errors in {report.documents} manifests")
    if not as_json:
        print(f"{report.documents} manifests, no errors")
