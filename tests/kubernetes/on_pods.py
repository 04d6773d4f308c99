"""What tests with pods share: the checkout as the image, models in the shared volume, clients that count what fails."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.core.specs.infra import InfraSpec
from cluster.kubernetes.api import Api, placed
from cluster.kubernetes.objects import Order
from cluster.kubernetes.pods import APP_FOLDER, COMPONENT
from cluster.kubernetes.tree import manifests
from tests.conftest import ROOT
from tests.kubernetes.server import Server, running

USER = "1000:1000"
SMALL = {"head_cpus": 1, "head_memory_gib": 2, "worker_memory_gib": 3, "replica_memory_gib": 3, "storage_gib": 1}
IMAGE = f"trunkline:cpu={ROOT}:{APP_FOLDER}:{APP_FOLDER}/.venv/bin"
SERVICE = "/api/v1/namespaces/{0}/services/{0}-endpoint-serve-svc:8000/proxy"


@contextmanager
def with_pods(*options: str) -> Iterator[Server]:
    with running("--image", IMAGE, *options) as server:
        yield server


def volume(server: Server, infra: InfraSpec) -> Path:
    """The folder behind the shared volume, before there is a pod."""
    folder = server.state / "claims" / infra.namespace / f"{infra.name}-store"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def hand_over(folder: Path) -> None:
    """To the user of the pods."""
    subprocess.run(["chown", "-R", USER, str(folder)], check=True)


def apply(server: Server, order: Order, component: str, others: tuple[str, ...] = ("common",)) -> None:
    """As `ctl infra render` and `ctl infra apply` do; the pods run the code of this checkout."""
    api = Api(str(server.kubeconfig), namespace=order.infra.namespace)
    bodies = [body for found in manifests(order).values() for body in found]
    for body in placed(bodies):
        if body["metadata"]["labels"][COMPONENT] in (component, *others):
            _with_checkout(body)
            api.apply(body, force=True)


def _with_checkout(value: Any) -> None:
    if isinstance(value, dict):
        for container in value.get("containers", ()):
            container.setdefault("env", []).append({"name": "PYTHONPATH", "value": APP_FOLDER})
        for inner in value.values():
            _with_checkout(inner)
    elif isinstance(value, list):
        for inner in value:
            _with_checkout(inner)


def until(what: str, seconds: float, ready: Callable[[], Any]) -> Any:
    """Look until it is so. There is no event to wait for: several objects make it so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what}: not in {seconds:.0f} s")


@dataclass
class Clients:
    """Clients that ask again and again, each on a connection of its own, and what they got: status, who answered."""

    server: Server
    path: str
    body: dict[str, Any]
    number: int
    pause_seconds: float = 0.5
    got: list[tuple[float, int, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Clients:
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.number)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join(60)

    def _ask(self) -> None:
        own = Server(self.server.state)
        headers = {"Authorization": f"Bearer {own.token}", "Content-Type": "application/json"}
        while not self.ended.wait(self.pause_seconds):
            began = time.monotonic()
            try:
                own.connection.request("POST", self.path, json.dumps(self.body), headers)
                answer = own.connection.getresponse()
                text = answer.read().decode(errors="replace")
                by = answer.headers.get("trunkline-artifact", "") if answer.status == 200 else text[:200]
                self.got.append((began, answer.status, by))
            except (OSError, http.client.HTTPException) as error:
                self.got.append((began, 0, repr(error)))
                own = Server(self.server.state)

    def failed(self) -> list[tuple[float, int, str]]:
        return [each for each in self.got if each[1] != 200]

    def answering(self) -> set[str]:
        """Who gave the last answers of as many as there are clients."""
        return {by for _, _, by in self.got[-self.number :]}
