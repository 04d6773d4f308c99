"""`ctl up`, `--join`, `status` and `down` on this machine."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest
import requests

from cluster.control import local, nodes, ports, runtime
from cluster.core.errors import NotReadyError
from tests.cluster.local_cluster import LocalCluster, free_port, running
from tests.cluster.namespaces import Network

pytestmark = pytest.mark.heavy


def of_home(cluster: LocalCluster) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(cluster.home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def recorded(cluster: LocalCluster) -> list[dict[str, str]]:
    """What is written down of the nodes that were started from a home."""
    found: list[dict[str, str]] = json.loads((cluster.home / ".trunkline" / "nodes.json").read_text())
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


def test_status_by_context(local_cluster: LocalCluster) -> None:
    """Whose dashboard is not that of its head is refused."""
    head = f"address=127.0.0.1:{local_cluster.port}"
    for name, port in (("right", local_cluster.dashboard_port), ("wrong", local_cluster.port)):
        fields = ("--set", head, "--set", f"dashboard=http://127.0.0.1:{port}")
        local_cluster.ctl("context", "add", name, "address", *fields)
    assert "head" in local_cluster.ctl("status", "--context", "right", RAY_ADDRESS="elsewhere:6379")
    said = local_cluster.ctl("jobs", "list", "--cluster", TRUNKLINE_CONTEXT="wrong", code=4)
    assert f"is not the dashboard of the head at 127.0.0.1:{local_cluster.port}" in said
    assert said.count("\n") == 1


def test_life_of_a_second_cluster_and_a_joining_node(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    other = LocalCluster(tmp_path_factory.mktemp("joined"), free_port(), free_port())
    assert "ctl up" in cluster.ctl("status", code=4)
    assert "Nothing is running" in cluster.ctl("down")
    try:
        shown = local._own_address()
        assert f"http://{shown}:{cluster.dashboard_port}" in cluster.up("--dashboard-host", shown)
        other.home.joinpath(".ray").mkdir(mode=0o700)
        shutil.copy(cluster.home / ".ray" / "auth_token", other.home / ".ray" / "auth_token")
        other.ctl("up", "--join", f"127.0.0.1:{cluster.port}", "--num-cpus", "3")
        folders = [each["folder"] for home in (cluster, other) for each in recorded(home)]
        assert len(set(folders)) == 2 and all(Path(folder).stat().st_mode & 0o777 == 0o700 for folder in folders)
        found = json.loads(other.ctl("status", "--json"))  # it has joined, and finds its head
        assert sorted(node["resources"]["CPU"]["total"] for node in found["nodes"] if node["alive"]) == [2, 3]
        assert "Ended" in other.ctl("down")
        assert of_home(other) == []
        for server in of_home(cluster):
            if server.name() == "gcs_server":
                server.kill()
        for command in (
            ["status"],
            ["jobs", "list", "--cluster"],
            ["submit", "pipelines/pretrain.py"],
            ["up"],
        ):
            said = cluster.ctl(*command, code=4)
            assert "the head at" in said, "its dashboard would be waited for"
            assert said.count("\n") == 1 and "Run `ctl down`, then `ctl up`." in said, said
    finally:
        other.ctl("down")
        said = cluster.ctl("down")
    assert "Ended" in said
    assert of_home(cluster) == []
    assert not any(Path(folder).exists() for folder in folders), "with the code of jobs"
    assert "no Ray cluster is running" in cluster.ctl("status", code=4)


@pytest.mark.exhaustive
def test_a_head_that_hangs_holds_no_command_up(tmp_path_factory: pytest.TempPathFactory) -> None:
    """It takes connections and answers nothing, as on a machine without memory."""
    with running(tmp_path_factory.mktemp("home")) as cluster:
        (server,) = (process for process in of_home(cluster) if process.name() == "gcs_server")
        server.suspend()
        try:
            for command in (["status"], ["jobs", "list", "--cluster"], ["submit", "pipelines/quickstart.py"], ["up"]):
                said = cluster.ctl(*command, code=4, timeout=240)
                assert said.count("\n") == 1 and "Run `ctl down`, then `ctl up`." in said, said
            (job,) = json.loads(cluster.ctl("jobs", "list", "--json"))
            assert job["status"] == "FAILED" and "could not be handed to the cluster" in job["message"]
        finally:
            server.resume()


def test_a_port_in_use(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert ports.taken(port)
        said = cluster.ctl("up", "--port", str(port), code=4)
        assert f"port {port} is in use" in said
        said = cluster.ctl("up", "--port", str(cluster.port), "--dashboard-port", str(port), code=4)
        assert "--dashboard-port" in said
    assert not ports.taken(port)


@pytest.mark.parametrize("option", ["--port", "--dashboard-port"])
@pytest.mark.parametrize("port", [10002, 15000, 19999])
def test_a_port_that_rays_workers_want(option: str, port: int, tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, free_port(), free_port())
    said = cluster.ctl("up", option, str(port), *(() if option == "--port" else ("--port", str(cluster.port))), code=4)
    assert said.count("\n") == 1
    assert f"{option} {port}: Ray's workers use the ports 10002 to 19999. Choose another, such as " in said
    proposed = int(said.split("such as ")[1].rstrip(".\n"))
    assert proposed not in range(10002, 20000) and not ports.taken(proposed)


def test_ports_that_cannot_be(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, free_port(), free_port())
    assert "1024<=x<=65535" in cluster.ctl("up", "--port", "80", code=2)
    assert "1024<=x<=65535" in cluster.ctl("up", "--dashboard-port", "99999", code=2)
    port = str(cluster.port)
    assert f"port {port} is asked for twice" in cluster.ctl("up", "--port", port, "--dashboard-port", port, code=4)


BUSY = """#!{python}
import pathlib, sys
count = pathlib.Path(__file__).with_name("count")
count.write_text(count.read_text() + "x" if count.exists() else "x")
if len(count.read_text()) <= {failures}:
    print("Traceback (most recent call last):\\n  ...")
    sys.exit("Exception: The current node timed out during startup. This could happen because ...")
"""


@pytest.mark.parametrize(("failures", "message"), [(1, ""), (9, "Ray did not start in 2 attempts: it timed out")])
def test_a_start_that_times_out_is_tried_once_more(
    failures: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of `ray start` on a machine that is too busy is played here: a real one takes half a minute each time."""
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text(BUSY.format(python=sys.executable, failures=failures))
    ray.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ray.with_name("python")))
    monkeypatch.setenv("TRUNKLINE_HOME", str(tmp_path))
    monkeypatch.setattr(runtime, "private_folder", lambda: str(tmp_path))  # nobody removes what nobody started
    with pytest.raises(NotReadyError, match=message) if message else nullcontext():
        local.start_head(num_cpus=1, port=free_port(), dashboard_port=free_port())
    assert (tmp_path / "bin" / "count").read_text() == "xx"
    assert len(nodes.nodes()) == (0 if message else 1)


def test_no_port_shows_figures_to_everybody(local_cluster: LocalCluster) -> None:
    """Ray's Prometheus ports have no token."""
    ports = {
        connection.laddr.port
        for process in of_home(local_cluster)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {local_cluster.port, local_cluster.dashboard_port} <= ports
    for port in ports:
        try:
            reply = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
        except requests.RequestException:
            continue  # another protocol
        assert "# HELP" not in reply.text, port


def test_a_machine_without_a_way_to_the_internet_has_an_address_for_others(tmp_path: Path) -> None:
    """Its own name leads to 127.0.1.1, as Debian has it, and that is where a head was that nobody could join."""
    with Network(tmp_path, ("alpha",)) as network:
        network.head.run("ip", "route", "del", "default")
        asked = network.head.run(sys.executable, "-c", "from cluster.control import local; print(local._own_address())")
        assert asked.splitlines()[0] == network.head.address


def test_joining_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    assert "no Ray head answers" in cluster.ctl("up", "--join", f"127.0.0.1:{free_port()}", code=4)
