"""RayJobs that train a tiny model on pods, and the same pipeline on this machine, which nothing happens to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.metrics import METRICS_FILE, STEP
from cluster.core.specs.spec import fields
from cluster.core.storage.store import Store
from cluster.kubernetes.objects import Order
from pipelines.specs import EndpointSpec, InfraSpec, ScalingSpec
from tests.conftest import ROOT
from tests.kubernetes.on_pods import apply, hand_over, until, volume
from tests.kubernetes.server import Server
from tests.training.tiny import BATCH, LENGTH, make_tokens

SCRIPT = "tests/kubernetes/tiny_job.py"
SCALING = ScalingSpec(num_workers=2, log_every=1, checkpoint_every_seconds=0.5, max_failures=10)
START_SECONDS = 300
LOST_SECONDS = 400  # a node is found lost after 50 s, then pods, a cluster and a training group are started
END_SECONDS = 400


def job(infra: InfraSpec, steps: int, name: str, scaling: ScalingSpec = SCALING, seed: int = 0) -> Order:
    """A RayJob that trains for so many steps; another seed makes another model."""
    infra = msgspec.structs.replace(infra, pipeline=SCRIPT)
    run = {"pretrain": {"total_tokens": steps * BATCH * LENGTH, "seed": seed}, "scaling": fields(scaling)}
    return Order(infra, scaling, EndpointSpec(model=f"pretrain/{name}"), run, name)


def undisturbed(folder: Path, order: Order) -> str:
    """The sha256 of the model that the pipeline makes here."""
    store = Store(str(folder / "here"))
    make_tokens(store)
    config = folder / f"{order.run_name}.json"
    config.write_text(json.dumps(order.run))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_"))}
    environment = {**kept, "HOME": str(folder), "PYTHONPATH": str(ROOT), "TRUNKLINE_STORE": str(folder / "here")}
    command = [sys.executable, str(ROOT / SCRIPT), "--config", str(config), "--name", order.run_name]
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    return sha256(store, order.run_name)


def sha256(store: Store, name: str) -> str:
    """Of the weights that a run of this name has made."""
    return str(store.resolve(f"pretrain/{name}").record.files["model.safetensors"].sha256)


@dataclass
class Training:
    """A RayJob on a server."""

    server: Server
    order: Order

    def __post_init__(self) -> None:
        self.folder = volume(self.server, self.order.infra)
        self.namespace = self.order.infra.namespace

    def apply(self) -> None:
        make_tokens(Store(str(self.folder)))
        hand_over(self.folder)
        apply(self.server, self.order, "job")

    def status(self) -> dict[str, Any]:
        """What KubeRay says of it."""
        found = self.server.kubectl(
            "-n", self.namespace, "get", self.order.job_kind.lower(), self.order.job_name, "-o", "json"
        )
        return dict(json.loads(found).get("status") or {})

    def pods(self) -> list[dict[str, Any]]:
        """Those of its cluster that are to stay."""
        label = f"ray.io/cluster={self.status().get('rayClusterName', 'none')}"
        found = self.server.kubectl("-n", self.namespace, "get", "pods", "-l", label, "-o", "json")
        return [pod for pod in json.loads(found)["items"] if "deletionTimestamp" not in pod["metadata"]]

    def step(self) -> int:
        """The last step that is written down; 0 before the first."""
        found = (*self.folder.glob(f".staging/*/{METRICS_FILE}"), *self.folder.glob(f"pretrain/*/{METRICS_FILE}"))
        written = [path.read_bytes().rpartition(b"\n")[0].splitlines() for path in found if path.is_file()]
        return max((int(json.loads(lines[-1])[STEP]) for lines in written if lines), default=0)

    def await_steps(self, count: int, seconds: float) -> None:
        """Return once there are so many more steps than there ever were."""
        target = self.step() + count
        until(f"step {target}", seconds, lambda: self.step() >= target or self.has_ended())
        assert not self.has_ended(), f"it has ended before anything happened to it: {self.status()}"

    def has_ended(self) -> bool:
        return self.status().get("jobDeploymentStatus") in ("Complete", "Failed")

    def await_success(self, seconds: float = END_SECONDS) -> None:
        until(f"the end of {self.order.job_name}", seconds, self.has_ended)
        assert self.status()["jobStatus"] == "SUCCEEDED", self.status()

    def sha256(self) -> str:
        return sha256(Store(str(self.folder)), self.order.run_name)
