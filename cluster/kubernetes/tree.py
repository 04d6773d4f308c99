"""The kustomize tree: `base/` as the specs say, and `overlays/gpu/`, the same run with GPUs.

The overlay is the difference between two renderings, as JSON patches. So both come from the same code, neither can go
stale alone, and `kubectl kustomize` of the overlay is the rendering with GPUs, which a test compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.errors import InputError
from cluster.kubernetes import support
from cluster.kubernetes.objects import Order, ray_cluster, ray_job, ray_service
from cluster.kubernetes.pods import Manifest
from cluster.kubernetes.text import to_yaml

MARK = "# Written by `ctl infra render`: change the specs and render again, or lay an overlay of your own over it.\n"
KUSTOMIZATION = "kustomization.yaml"
BASE = "base"
OVERLAY = "overlays/gpu"


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
    }
    return {name: documents for name, documents in files.items() if documents}


def with_gpus(order: Order) -> Order:
    """The same with GPUs: one for every training worker, rollout engine and replica that has none."""
    scaling, endpoint = order.scaling, order.endpoint
    scaling = msgspec.structs.replace(
        scaling,
        gpus_per_worker=scaling.gpus_per_worker or 1.0,
        gpus_per_rollout=scaling.gpus_per_rollout or (1.0 if scaling.cpus_per_rollout else 0.0),
    )
    run = order.run | {"scaling": msgspec.to_builtins(scaling)}
    return Order(order.infra, scaling, msgspec.structs.replace(endpoint, gpus=endpoint.gpus or 1), run, order.run_name)


def tree(order: Order) -> dict[str, str]:
    """The text of every file, by its path."""
    plain, fast = manifests(order), manifests(with_gpus(order))
    base = {"namespace": order.infra.namespace, "resources": list(plain)}
    patches = [
        {"target": {"kind": old["kind"], "name": old["metadata"]["name"]}, "patch": to_yaml(changes)}
        for name in plain
        for old, new in zip(plain[name], fast[name], strict=True)
        if (changes := list(difference(old, new)))
    ]
    overlay = {"resources": ["../../" + BASE], "patches": patches}
    files = {f"{BASE}/{KUSTOMIZATION}": to_yaml(_kustomization(base))}
    files |= {f"{BASE}/{name}": to_yaml(*documents) for name, documents in plain.items()}
    files[f"{OVERLAY}/{KUSTOMIZATION}"] = to_yaml(_kustomization(overlay))
    return {path: MARK + text for path, text in files.items()}


def write(files: dict[str, str], out: Path) -> None:
    """Write the tree below `out`; what an earlier rendering left there and this one has not, goes.

    Raises InputError for a file in the way that `ctl infra render` has not written.
    """
    for folder in (BASE, OVERLAY):
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
