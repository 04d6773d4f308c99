"""The kustomize tree: `base/` as the specs say, and overlays, the same with GPUs, on spot nodes, small, or offline.

An overlay is the difference between two renderings, as JSON patches. So both come from the same code, neither can go
stale alone, and `kubectl kustomize` of an overlay is the rendering with other specs, which a test compares.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.errors import InputError
from cluster.kubernetes import support
from cluster.kubernetes.monitoring import monitoring
from cluster.kubernetes.objects import Order, ray_cluster, ray_job, ray_service
from cluster.kubernetes.pods import Manifest
from cluster.kubernetes.text import to_yaml

MARK = "# Written by `ctl infra render`: change the specs and render again, or lay an overlay of your own over it.\n"
KUSTOMIZATION = "kustomization.yaml"
BASE = "base"
FOLDER = "overlays"
SPOT = {"karpenter.sh/capacity-type": "spot"}  # where the specs name no labels of such nodes
REGISTRY = "registry.internal"  # of a cluster without internet, where the specs name none


def manifests(order: Order) -> dict[str, list[Manifest]]:
    """All documents, by the name of their file."""
    infra = order.infra
    files = {
        "namespace.yaml": [support.namespace(infra)],
        "storage.yaml": support.storage(infra),
        "network.yaml": support.network(order),
        "disruption.yaml": support.disruption(infra),
        "raycluster.yaml": [ray_cluster(order)],
        "rayjob.yaml": [support.run_config(order), ray_job(order)],
        "rayservice.yaml": [ray_service(order)],
        "monitoring.yaml": monitoring(order),
    }
    return {name: documents for name, documents in files.items() if documents}


def with_gpus(order: Order) -> Order:
    """The same with GPUs: one for every training worker, rollout engine and replica that has none."""
    scaling, endpoint = order.scaling, order.endpoint
    apart = scaling.cpus_per_rollout and not scaling.colocated_fraction  # engines beside workers use the workers'
    scaling = msgspec.structs.replace(
        scaling,
        gpus_per_worker=scaling.gpus_per_worker or 1.0,
        gpus_per_rollout=scaling.gpus_per_rollout or (1.0 if apart else 0.0),
    )
    run = order.run | {"scaling": msgspec.to_builtins(scaling)}
    return Order(order.infra, scaling, msgspec.structs.replace(endpoint, gpus=endpoint.gpus or 1), run, order.run_name)


def on_spot_nodes(order: Order) -> Order:
    """The same with GPUs, of nodes that may be taken away at any time."""
    order = with_gpus(order)
    return _changed(order, spot_node_selector=order.infra.spot_node_selector or SPOT)


def small(order: Order) -> Order:
    """The same for a cluster of one small node, to try things on: nothing is done again by itself."""
    memory = {"head_memory_gib": 4, "worker_memory_gib": 4, "replica_memory_gib": 4}
    return _changed(order, head_cpus=1, **memory, storage_gib=20, storage_access="ReadWriteOnce", retries=0)


def without_internet(order: Order) -> Order:
    """The same where nothing reaches the internet: images from a registry there, no hub asked, egress to private
    addresses alone."""
    return _changed(order, registry=order.infra.registry or REGISTRY, offline=True)


def _changed(order: Order, **fields: Any) -> Order:
    return dataclasses.replace(order, infra=msgspec.structs.replace(order.infra, **fields))


@dataclasses.dataclass(frozen=True)
class Overlay:
    """What is laid over what."""

    change: Callable[[Order], Order]
    over: str = BASE


OVERLAYS = {
    "dev": Overlay(small),
    "gpu": Overlay(with_gpus),
    "gpu-spot": Overlay(on_spot_nodes, f"{FOLDER}/gpu"),
    "air-gapped": Overlay(without_internet),
}


def tree(order: Order) -> dict[str, str]:
    """The text of every file, by its path."""
    made = {BASE: manifests(order)}
    base = {"namespace": order.infra.namespace, "resources": list(made[BASE])}
    files = {f"{BASE}/{KUSTOMIZATION}": to_yaml(_kustomization(base))}
    files |= {f"{BASE}/{name}": to_yaml(*documents) for name, documents in made[BASE].items()}
    for name, overlay in OVERLAYS.items():
        place = f"{FOLDER}/{name}"
        made[place] = manifests(overlay.change(order))
        under = os.path.relpath(overlay.over, place)
        body = {"resources": [under], "patches": _patches(made[overlay.over], made[place])}
        files[f"{place}/{KUSTOMIZATION}"] = to_yaml(_kustomization(body))
    return {path: MARK + text for path, text in files.items()}


def _patches(before: dict[str, list[Manifest]], after: dict[str, list[Manifest]]) -> list[Manifest]:
    return [
        {"target": {"kind": old["kind"], "name": old["metadata"]["name"]}, "patch": to_yaml(changes)}
        for name in before
        for old, new in zip(before[name], after[name], strict=True)
        if (changes := list(difference(old, new)))
    ]


def write(files: dict[str, str], out: Path) -> None:
    """Write the tree below `out`; what an earlier rendering left there and this one has not, goes.

    Raises InputError for a file in the way that `ctl infra render` has not written.
    """
    for folder in (BASE, *(f"{FOLDER}/{name}" for name in OVERLAYS)):
        for path in sorted((out / folder).glob("*.yaml")):
            if not path.read_text().startswith(MARK):
                raise InputError(f"{path} was not written by `ctl infra render`", "Move it, or give another --out.")
            if path.relative_to(out).as_posix() not in files:
                path.unlink()
    for name, text in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)


def _kustomization(body: Manifest) -> Manifest:
    return {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **body}


def difference(old: Any, new: Any, path: str = "") -> Iterator[Manifest]:
    """A JSON patch (RFC 6902) that makes `new` of `old`; a list of another length is replaced as a whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            where = f"{path}/{key.replace('~', '~0').replace('/', '~1')}"
            if key not in new:
                yield {"op": "remove", "path": where}
            elif key not in old:
                yield {"op": "add", "path": where, "value": new[key]}
            else:
                yield from difference(old[key], new[key], where)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from difference(before, after, f"{path}/{index}")
    elif old != new:
        yield {"op": "replace", "path": path, "value": new}
