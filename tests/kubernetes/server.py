"""A real Kubernetes for tests, of the one on this machine: control plane and operators, with pods or without."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

PROGRAM = ROOT.parent / "shared" / "kubernetes" / "cluster" / "kubernetes.py"
CRDS = PROGRAM.parents[1] / "crds"
NEEDED = ("kubectl", "openssl")
PODS_NEED = ("ip", "nsenter", "unshare", "wget")
LOCK = Path(tempfile.gettempdir()) / "trunkline-kubernetes.lock"  # one with pods at a time on a machine
UP_SECONDS = 400

# Where each kind is, below the API server's root and a namespace.
PLACES = {
    "ConfigMap": "api/v1/namespaces/{}/configmaps",
    "Namespace": "api/v1/namespaces",
    "NetworkPolicy": "apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "PersistentVolumeClaim": "api/v1/namespaces/{}/persistentvolumeclaims",
    "PodDisruptionBudget": "apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "RayCluster": "apis/ray.io/v1/namespaces/{}/rayclusters",
    "RayCronJob": "apis/ray.io/v1/namespaces/{}/raycronjobs",
    "RayJob": "apis/ray.io/v1/namespaces/{}/rayjobs",
    "RayService": "apis/ray.io/v1/namespaces/{}/rayservices",
}


def missing(programs: tuple[str, ...]) -> str:
    if not PROGRAM.is_file():
        return "there is no Kubernetes to start on this machine"
    lacking = [name for name in programs if not shutil.which(name)]
    return f"needs {', '.join(lacking)}" if lacking else ""


class Server:
    """A running one: `state` is its folder, `kubeconfig` how it is reached."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.kubeconfig = state / "kubeconfig"
        config = json.loads(self.kubeconfig.read_text())
        self.url = urllib.parse.urlsplit(config["clusters"][0]["cluster"]["server"])
        self.token = config["users"][0]["user"]["token"]
        self.tls = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
        self.connection = self._connect()

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(str(self.url.hostname), self.url.port, context=self.tls, timeout=60)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],
            input=text, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """Status and answer of one request."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")

    def refuses(self, body: dict[str, Any], namespace: str) -> str:
        """What it says against a manifest, in a dry run as strict as kubectl's; empty where it would take it."""
        path = PLACES[body["kind"]].format(namespace)
        status, answer = self.ask("POST", f"/{path}?dryRun=All&fieldValidation=Strict", body)
        return "" if status < 300 or answer.get("reason") == "AlreadyExists" else str(answer.get("message", status))


@contextmanager
def running(*options: str) -> Iterator[Server]:
    """One that is taken down at the end. Skips where this machine cannot have it."""
    with_pods = "--no-pods" not in options
    if reason := missing(NEEDED + (PODS_NEED if with_pods else ())):
        pytest.skip(reason)
    if (with_pods or "--kueue" in options) and os.geteuid() != 0:
        pytest.skip("pods need root: a bridge, namespaces, overlays")
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = Path(tempfile.mkdtemp(prefix="trunkline-kubernetes-"))
        program = [sys.executable, str(PROGRAM)]
        try:
            done = subprocess.run(
                [*program, "up", "--state", str(state), *options],
                capture_output=True, text=True, timeout=UP_SECONDS, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            yield Server(state)
        finally:
            subprocess.run([*program, "down", "--state", str(state)], timeout=120, check=False)
            shutil.rmtree(state, ignore_errors=True)
