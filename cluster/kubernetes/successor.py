"""Before a manifest's endpoint takes another's place: does its model do what the one before it does? Asked of the
store that both name, as `ctl serve up` asks it."""

from __future__ import annotations

from collections.abc import Callable

from cluster.core.storage.store import Store
from cluster.kubernetes.documents import load
from cluster.kubernetes.findings import At
from cluster.kubernetes.objects import IMPORT_PATH
from cluster.kubernetes.pods import STORE_VARIABLE, Manifest
from serving.tasks import check_tasks, tasks

REMEDY = "Render it under an infra.name of its own, or give --change-task."


def check_successor(before: Manifest, after: Manifest, notice: Callable[[str], None]) -> None:
    """Raise InputError where the model of one RayService does not do what that of the one before it does, or is not in
    the store. A volume of the pods cannot be looked into from outside, which `notice` is told."""
    old, new = _model(before), _model(after)
    if not old or not new or old == new:
        return
    where = _store(after)
    if "://" not in where:
        notice(f"only pods see the store, so it is not known here whether {new} does what {old} does")
        return
    store = Store(where)
    artifact = store.resolve(new)
    whose = f"endpoint {after['metadata']['name']!r}"
    check_tasks(whose, tasks(store.resolve(old)), artifact.record.ref, tasks(artifact), REMEDY)


def _model(service: Manifest) -> str:
    """What it serves; empty where it is no endpoint of ours."""
    config = (At(service) / "spec.serveConfigV2").text()
    for document in load(config, "serveConfigV2"):
        for application in At(document.body)["applications"].items():
            if application["import_path"].value == IMPORT_PATH:
                return (application / "args.model").text()
    return ""


def _store(service: Manifest) -> str:
    pod = At(service) / "spec.rayClusterConfig.headGroupSpec.template.spec"
    variables = (each for container in pod["containers"].items() for each in container["env"].items())
    return next((each["value"].text() for each in variables if each["name"].value == STORE_VARIABLE), "")
