"""Rules for every document: names, labels, secrets in plain sight, budgets that cannot work."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from cluster.core.specs.kubernetes_names import passwords
from cluster.kubernetes import metadata
from cluster.kubernetes.findings import At, Problem, Problems

# KubeRay appends to them, and the longest result must still be a label's value.
NAME_CHARS = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
SECRET = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIALS?|API_?KEY|ACCESS_?KEY(_ID)?|PRIVATE_?KEY)$", re.I)
REFERENCE = re.compile(r"\$|/|~")  # a variable of the container, or a path


def names(kind: str, about: At) -> Problems:
    """KubeRay's bounds for what it appends to."""
    name, most = about["name"], NAME_CHARS.get(kind)
    if most is None or not name.text():
        return
    if len(name.text()) > most:
        yield name.error(f"{len(name.text())} characters are more than KubeRay's {most} for a {kind}", "Shorten it.")
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name.text()):
        yield name.error(f"{name.text()!r} is not a DNS-1035 label", "Use a-z, 0-9 and -, a letter first.")


def labels(body: At) -> Problems:
    """Labels of groups and pods, which the API server looks at when KubeRay makes these, and not before."""
    for place in _places(body["spec"], "labels"):
        if isinstance(place.value, dict):
            yield from metadata.labels(place)


def secrets(body: At) -> Problems:
    """Secrets that stand in the manifest, and so in etcd, in git and in `kubectl describe`, instead of in a Secret."""
    for path in passwords(body.value):
        yield Problem(path, "a URL with a password", "Leave it out, and give it by a Secret.")
    for place in _places(body, "env"):
        for entry in place.items():
            if _discloses(entry["name"].text(), entry["value"]):
                yield entry["value"].error("a secret in plain sight", "Use valueFrom.secretKeyRef.")
    for place in _places(body, "redisPassword"):
        if place["value"]:
            yield place["value"].error("a secret in plain sight", "Use valueFrom.secretKeyRef.")
    for place in _places(body, "redis-password"):
        if _discloses("PASSWORD", place):
            yield place.error("a secret in plain sight", "Use gcsFaultToleranceOptions.redisPassword.")
    for name in ("runtimeEnvYAML", "serveConfigV2"):
        for place in _places(body, name):
            for variables in _places(At(_parsed(place.text()), place.path), "env_vars"):
                for key in variables.value if isinstance(variables.value, dict) else ():
                    if _discloses(str(key), variables[key]):
                        yield variables[key].error(
                            "a secret in plain sight: Ray shows env_vars in its dashboard",
                            "Give it to the pods, by valueFrom.secretKeyRef.",
                        )


def budget(body: At) -> Problems:
    """A PodDisruptionBudget of pods that KubeRay owns: RayClusters have no scale, so that only an integer counts."""
    selected = (body / "spec.selector.matchLabels").value
    if not isinstance(selected, dict) or not any(str(key).startswith("ray.io/") for key in selected):
        return
    if "maxUnavailable" in body["spec"]:
        yield (body / "spec.maxUnavailable").error(
            "cannot be counted for pods that KubeRay owns", "Use minAvailable, as a whole number."
        )
    elif isinstance((body / "spec.minAvailable").value, str):
        yield (body / "spec.minAvailable").error(
            "a percentage cannot be counted for pods that KubeRay owns", "Write a whole number."
        )


def _discloses(name: str, value: At) -> bool:
    text = value.text()
    return bool(text and SECRET.search(name) and not REFERENCE.match(text))


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _places(at: At, name: str) -> Iterator[At]:
    """All fields of this name, at any depth."""
    if isinstance(at.value, dict):
        for key in at.value:
            if key == name:
                yield at[key]
            yield from _places(at[key], name)
    for item in at.items():
        yield from _places(item, name)
