"""`ctl up`, `--join`, `status` and `down` on this machine."""

from __future__ import annotations

import json
import socket

import psutil
import pytest

from cluster import local
from tests.cluster.local_cluster import LocalCluster, free_port


def of_home(cluster: LocalCluster) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(cluster.home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_status_and_up_again(local_cluster: LocalCluster) -> None:
    assert "Already running" in local_cluster.up()
    found = json.loads(local_cluster.ctl("status", "--json"))
    assert found["resources"]["CPU"]["total"] == 2
    assert [node["head"] for node in found["nodes"] if node["alive"]] == [True]
    assert found["endpoints"] == []
    assert "head" in local_cluster.ctl("status")
    token = local_cluster.home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_wrong_token_is_refused_in_one_sentence(local_cluster: LocalCluster) -> None:
    for token in ("0" * 64, ""):
        said = local_cluster.ctl("status", code=4, RAY_AUTH_TOKEN=token, RAY_AUTH_TOKEN_PATH="/nonexistent")
        assert said.count("\n") == 1
        assert "refuses the token" in said
        assert "auth_token" in said


def test_status_by_address(local_cluster: LocalCluster) -> None:
    for address in (f"127.0.0.1:{local_cluster.port}", f"http://127.0.0.1:{local_cluster.dashboard_port}"):
        assert "head" in local_cluster.ctl("status", RAY_ADDRESS=address)
    said = local_cluster.ctl("status", code=4, RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert "no Ray cluster answers" in said


def test_life_of_a_second_cluster_and_a_joining_node(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    assert "ctl up" in cluster.ctl("status", code=4)
    assert "Nothing is running" in cluster.ctl("down")
    try:
        cluster.up()
        cluster.ctl("up", "--join", f"127.0.0.1:{cluster.port}", "--num-cpus", "3")
        found = json.loads(cluster.ctl("status", "--json"))
        assert sorted(node["resources"]["CPU"]["total"] for node in found["nodes"] if node["alive"]) == [2, 3]
    finally:
        said = cluster.ctl("down")
    assert "Ended" in said
    assert of_home(cluster) == []
    assert "no Ray cluster is running" in cluster.ctl("status", code=4)


def test_a_port_in_use(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert local.port_taken(port)
        said = cluster.ctl("up", "--port", str(port), code=4)
        assert f"port {port} is in use" in said
        said = cluster.ctl("up", "--port", str(cluster.port), "--dashboard-port", str(port), code=4)
        assert "--dashboard-port" in said
    assert not local.port_taken(port)


def test_joining_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    assert "no Ray head answers" in cluster.ctl("up", "--join", f"127.0.0.1:{free_port()}", code=4)
