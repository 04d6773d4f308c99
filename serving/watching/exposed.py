"""GET /metrics of a replica: all figures of its process, vLLM's and the gateway's, labelled with whose they are.

Serve's proxy passes a request to any replica of an endpoint: without a label, the counters of several would look like
one that falls and rises.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Metric, multiprocess
from prometheus_client.exposition import choose_encoder
from starlette.responses import Response

from serving.asgi import METRICS_PATH, Application, Receive, Scope, Send, path_of
from serving.watching.counted import ARTIFACT, SEEN


def replica_name() -> str:
    """A replica's label: the machine, and the process there."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Labelled:
    """A registry whose samples have more labels; what it is made of stays as it is."""

    def __init__(self, registry: Any, labels: Mapping[str, str]) -> None:
        self.registry, self.labels = registry, dict(labels)

    def collect(self) -> Iterable[Metric]:
        for family in self.registry.collect():
            labelled = Metric(family.name, family.documentation, family.type, family.unit)
            labelled.samples = [s._replace(labels={**s.labels, **self.labels}) for s in family.samples]
            yield labelled


def process_registry() -> CollectorRegistry:
    """What this process and its children count: where prometheus_client keeps it in files, those of all of them."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return registry


class Exposed:
    """An ASGI application within the gateway: answers /metrics, and passes on what else is asked."""

    def __init__(self, app: Application, endpoint: str, artifact: str) -> None:
        self.app = app
        self.labels = {"endpoint": endpoint, "replica": replica_name()}
        ARTIFACT.labels(artifact).set(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else ""
        seen = scope.get(SEEN)
        if seen and not seen.passed_on and path == seen.path:  # and not what the gateway asks to count tokens
            seen.pass_on()
        if path != METRICS_PATH:
            await self.app(scope, receive, send)
            return
        accepted = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"accept"), "")
        encode, kind = choose_encoder(accepted)
        body = encode(Labelled(process_registry(), self.labels))
        await Response(body, headers={"content-type": kind})(scope, receive, send)
