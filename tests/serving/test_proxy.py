"""Which proxy stands before the replicas, and that HAProxy's own ports stay on this machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from serving.proxy import SWITCH, WRAPPER, environment, haproxy

OFF = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
BINDS = """global
    stats socket {socket} mode 666 level admin expose-fd listeners
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend prometheus
    bind :{metrics}
    http-request use-service prometheus-exporter if {{ path /metrics }}
listen stats
  bind *:{stats}
  stats enable
"""


@pytest.fixture(autouse=True)
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "haproxy")


def test_haproxy_is_for_one_machine_without_https(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment(EndpointSpec(model="x"), 1)["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert environment(EndpointSpec(model="x"), 2) == OFF
    assert environment(EndpointSpec(model="x", host="0.0.0.0"), 1) == OFF
    assert environment(EndpointSpec(model="x", access=Access(tls_certificate="c", tls_key="k")), 1) == OFF
    monkeypatch.delenv(SWITCH)
    assert environment(EndpointSpec(model="x"), 1) == OFF


def test_two_clusters_have_nothing_in_common() -> None:
    first, second = (environment(EndpointSpec(model="x"), 1) for _ in range(2))
    for name in ("CONFIG_FILE_LOC", "SOCKET_PATH", "METRICS_SOCKET_PATH", "SERVER_STATE_FILE"):
        assert first[f"RAY_SERVE_HAPROXY_{name}"] != second[f"RAY_SERVE_HAPROXY_{name}"]
    node = "f" * 56  # its id, which Serve puts between
    socket = Path(first["RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH"])
    assert len(str(socket.parent / node / socket.name)) < 104
    assert Path(first["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent.stat().st_mode & 0o077 == 0


def test_the_wrapper_keeps_ports_and_socket_to_this_machine(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(BINDS.format(socket=tmp_path / "admin.sock", metrics=9101, stats=8404))
    variables = {**os.environ, "TRUNKLINE_HAPROXY": haproxy()}
    subprocess.run([WRAPPER, "-c", "-f", config], env=variables, check=True, timeout=60)  # HAProxy reads it, and ends
    text = config.read_text()
    assert "bind 127.0.0.1:9101" in text and "bind 127.0.0.1:8404" in text and "mode 600" in text
    assert " *:" not in text and " :" not in text and tmp_path.stat().st_mode & 0o077 == 0


def test_the_configuration_of_serve_is_still_as_the_wrapper_knows_it() -> None:
    for line in ("\n    bind :{{ config.metrics_port }}\n", "\n  bind *:{{ config.stats_port }}\n", " mode 666 "):
        assert HAPROXY_CONFIG_TEMPLATE.count(line) == 1
    assert len(re.findall(r"^ +bind ", HAPROXY_CONFIG_TEMPLATE, re.MULTILINE)) == 4  # those two, and of HTTP and gRPC
