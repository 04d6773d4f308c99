"""What KubeRay 1.7 asks of a RayService beyond its schema, and what Ray Serve asks of the configuration in it."""

from __future__ import annotations

import re
from typing import Any

import yaml

from cluster.kubernetes.findings import At, Problems

TIMEOUT_ANNOTATION = "ray.io/initializing-timeout"
INCREMENTAL = "NewClusterWithIncrementalUpgrade"
UPGRADES = ("None", "NewCluster", INCREMENTAL)
DURATION = re.compile(r"[1-9]\d*|(?=.*[1-9])((\d+(\.\d*)?|\.\d+)(h|m|s|ms|us|ns))+")


def check(spec: At, metadata: At) -> Problems:
    yield from _upgrade(spec)
    yield from _serve_config(spec["serveConfigV2"])
    timeout = metadata["annotations"][TIMEOUT_ANNOTATION]
    if timeout and not DURATION.fullmatch(timeout.text()):
        yield timeout.error(f"{timeout.value!r} is not a duration", "Write '30m', or seconds.")
    head = spec / "rayClusterConfig.headGroupSpec"
    if head / "headService.metadata.name":
        yield (head / "headService.metadata.name").error("KubeRay names it", "Leave it out.")
    if head["rayStartParams"]["num-cpus"].value != "0":
        yield head["rayStartParams"]["num-cpus"].warning(
            "is not '0': a replica may take the memory of the control plane", "Set it to '0'."
        )


def _upgrade(spec: At) -> Problems:
    strategy = spec["upgradeStrategy"]
    if strategy["type"].value is not None and strategy["type"].value not in UPGRADES:
        yield strategy["type"].error(f"{strategy['type'].value!r} is not allowed", f"Known: {', '.join(UPGRADES)}.")
    delay = spec["rayClusterDeletionDelaySeconds"]
    if (delay.number() or 0) < 0:
        yield delay.error(f"is {delay.value}", "Give 0 or more.")
    if strategy["type"].value != INCREMENTAL:
        return
    scaling = spec / "rayClusterConfig.enableInTreeAutoscaling"
    if scaling.value is not True:
        yield scaling.error(f"{INCREMENTAL} needs the autoscaler", "Set it to true.")
    options = strategy["clusterUpgradeOptions"]
    if not options["gatewayClassName"]:
        yield options["gatewayClassName"].error("is missing", "Name the class of the gateway that shifts the traffic.")
    surge = 100 if (given := options["maxSurgePercent"].number()) is None else given
    step, interval = options["stepSizePercent"], options["intervalSeconds"]
    if not 0 <= surge <= 100:
        yield options["maxSurgePercent"].error(f"is {surge}", "Give 0 to 100.")
    if (size := step.number()) is None or not 0 <= size <= 100:
        yield step.error(f"is {step.value}", "Give 0 to 100.")
    elif size > surge:
        yield step.error(f"{size} is more than maxSurgePercent ({surge})", "Lower it.")
    if (interval.number() or 0) <= 0:
        yield interval.error(f"is {interval.value}", "Give 1 or more.")


def _serve_config(config: At) -> Problems:
    try:
        body: Any = yaml.safe_load(config.text() or "{}")
    except yaml.YAMLError as error:
        yield config.error(f"is not YAML: {getattr(error, 'problem', error)}", "Mend the text.")
        return
    applications = body.get("applications") if isinstance(body, dict) else None
    if not applications or not isinstance(applications, list):
        yield config.error("names no applications", "Give `applications:`, a list.")
        return
    inside = At(body, config.path)["applications"]
    for key in ("name", "route_prefix"):
        seen = set()
        for application in inside.items():
            value = application[key].text() or ("default" if key == "name" else "/")
            if value in seen:
                yield application[key].error(f"{value!r} is there twice", "Give each application its own.")
            seen.add(value)
    for application in inside.items():
        if not application["import_path"]:
            yield application["import_path"].error("is missing", "Write module:attribute.")
