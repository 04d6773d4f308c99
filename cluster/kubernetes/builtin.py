"""Kubernetes' own kinds as its API server takes them: shapes by its strict schemas, which the package
kubernetes-validate carries, and values by rules of ours, for the kinds that we render (`VALUES`).

As there, what is null is absent, and in a list the zero value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from cluster.core.errors import NotReadyError, nearest
from cluster.core.specs import kubernetes_names as names
from cluster.kubernetes import network_values
from cluster.kubernetes.findings import At, Path, Problem, Problems
from cluster.kubernetes.metadata import one_of, selector

KUBERNETES = "1.34"  # the oldest that was supported when KubeRay 1.7 came out
ACCESS_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
QUANTITY = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(|[numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)", re.ASCII)
CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
CONFIG_BYTES = 2**20


def check(body: dict[str, Any]) -> Problems:
    """What Kubernetes would refuse; nothing for a kind that is not its own.

    Raises NotReadyError where the package is not installed.
    """
    try:
        import kubernetes_validate
    except ImportError:
        raise NotReadyError(
            "the schemas of Kubernetes' own kinds are not installed", "Install them: `pip install kubernetes-validate`."
        ) from None
    given, body = body, _without_nulls(body)
    try:
        kubernetes_validate.validate(body, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield from _shape(error)
        return  # the values of what has another shape would only say it again
    except kubernetes_validate.SchemaNotFoundError:
        return
    for path in _nulls(given):  # a field must be known even where it is null
        try:
            kubernetes_validate.validate(_without_nulls(given, kept=path), KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            if error.validator == "additionalProperties":
                yield from _shape(error)
    at = At(body)
    yield from VALUES.get(str(body["kind"]), _nothing)(at)


def _shape(error: Any) -> Problems:
    path: Path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        for name in error.instance.keys() - set(known):
            yield Problem((*path, str(name)), "unknown field", nearest(str(name), known))
    else:
        text = error.message if len(error.message) <= 120 else f"{error.message[:117]}..."
        yield Problem(path, text, "See `kubectl explain`.")


def _without_nulls(value: Any, kept: Path = (), path: Path = ()) -> Any:
    """The value without its nulls, but for the one at `kept`."""
    if isinstance(value, dict):
        return {
            key: _without_nulls(inner, kept, (*path, key))
            for key, inner in value.items()
            if inner is not None or (*path, key) == kept
        }
    if isinstance(value, list):
        return [_without_nulls(inner, kept, (*path, index)) for index, inner in enumerate(value)]
    return value


def _nulls(value: Any, path: Path = ()) -> Iterator[Path]:
    """The places of the nulls that are values of a key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if inner is None:
                yield (*path, key)
            yield from _nulls(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _nulls(inner, (*path, index))


def _nothing(_: At) -> Problems:
    return iter(())


def config(body: At) -> Problems:
    """A ConfigMap."""
    bytes_used = 0
    for part in ("data", "binaryData"):
        for key, value in (body[part].value or {}).items():
            bytes_used += len(value.encode())
            if not CONFIG_KEY.fullmatch(key) or key in (".", "..") or key.startswith(".."):
                yield body[part][key].error(
                    f"{key!r} cannot be a key", "Use letters, digits, - _ and . as a file's name."
                )
            if part == "binaryData" and key in body["data"]:
                yield body[part][key].error("stands in data as well", "Keep one of them.")
    if bytes_used > CONFIG_BYTES:
        yield body["data"].error(f"{bytes_used} bytes are more than a ConfigMap holds", "At most a MiB: use a volume.")


def claim(body: At) -> Problems:
    """A PersistentVolumeClaim."""
    spec = body["spec"]
    modes = spec["accessModes"]
    if not modes:
        yield modes.error("is missing", f"Known: {', '.join(ACCESS_MODES)}.")
    for mode in modes.items():
        yield from one_of(mode, ACCESS_MODES)
    if "ReadWriteOncePod" in (modes.value or ()) and len(modes.value) > 1:
        yield modes.error("ReadWriteOncePod goes with no other", "Keep one of them.")
    storage = (spec / "resources.requests")["storage"]
    if storage.value is None:
        yield storage.error("is missing", "State how much: 200Gi.")
    for place in ((spec / "resources.requests"), (spec / "resources.limits")):
        for key in place.value or {}:
            yield from _amount(place[key])
    name = spec["storageClassName"].text()
    if name and not names.is_name(name):
        yield spec["storageClassName"].error(f"{name!r} cannot be a name", "Copy it from `kubectl get storageclass`.")
    if "volumeMode" in spec:
        yield from one_of(spec["volumeMode"], ("Filesystem", "Block"))
    yield from selector(spec["selector"])


def _amount(at: At) -> Problems:
    match = QUANTITY.fullmatch(str(at.value))
    if match is None:
        yield at.error(f"{at.value!r} is no quantity", "Write it as 200Gi.")
    elif match[1] == "-" or float(match[2]) == 0:
        yield at.error("must be more than nothing", "Write it as 200Gi.")


def budget(body: At) -> Problems:
    """A PodDisruptionBudget."""
    spec = body["spec"]
    if "minAvailable" in spec and "maxUnavailable" in spec:
        yield spec["maxUnavailable"].error("does not go with minAvailable", "Keep one of them.")
    for name in ("minAvailable", "maxUnavailable"):
        value = spec[name].value
        if isinstance(value, int) and not 0 <= value < 2**31:
            yield spec[name].error(f"is {value}", "Give 0 or more, up to 2^31 - 1.")
        if isinstance(value, str) and not (re.fullmatch(r"[0-9]+%", value) and int(value[:-1]) <= 100):
            yield spec[name].error(f"{value!r} is neither a number nor 0% to 100%", "Write 1, or '50%'.")
    if "unhealthyPodEvictionPolicy" in spec:
        yield from one_of(spec["unhealthyPodEvictionPolicy"], ("IfHealthyBudget", "AlwaysAllow"))
    yield from selector(spec["selector"])


def namespace(body: At) -> Problems:
    """A Namespace."""
    for mode in ("enforce", "audit", "warn"):
        labels = body / "metadata.labels"
        level, version = (f"pod-security.kubernetes.io/{mode}{end}" for end in ("", "-version"))
        if level in labels:
            yield from one_of(labels[level], ("privileged", "baseline", "restricted"))
        if version in labels and not re.fullmatch(r"latest|v1\.(0|[1-9][0-9]*)", labels[version].text()):
            yield labels[version].error(f"{labels[version].value!r} is no version", "Write latest, or v1.36.")
    for finalizer in (body / "spec.finalizers").items():
        if not names.is_key(finalizer.text()) or ("/" not in finalizer.text() and finalizer.value != "kubernetes"):
            yield finalizer.error(f"{finalizer.value!r} cannot be a finalizer", "Leave it out.")


VALUES: dict[str, Callable[[At], Problems]] = {
    "ConfigMap": config,
    "Namespace": namespace,
    "NetworkPolicy": network_values.check,
    "PersistentVolumeClaim": claim,
    "PodDisruptionBudget": budget,
}
