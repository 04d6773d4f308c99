"""What a stranger on the network, a web page, or another user of the machine gets of a cluster of `ctl up`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import grpc
import psutil
import pytest
import requests

from tests.cluster.local_cluster import LocalCluster
from tests.cluster.test_local import of_home

pytestmark = pytest.mark.heavy

# A method of each service that some process of Ray has; it reads, should it be let.
METHODS = (
    "ray.rpc.InternalKVGcsService/InternalKVGet",
    "ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray.rpc.NodeManagerService/GetSystemConfig",
    "ray.rpc.CoreWorkerService/NumPendingTasks",
    "ray.rpc.ObjectManagerService/Pull",
    "ray.rpc.ReporterService/GetTraceback",
    "ray.rpc.RayletDriver/ClusterInfo",
)
APIS = (
    *("/api/version", "/api/jobs/", "/api/serve/applications/", "/api/cluster_status", "/api/actors", "/events"),
    *("/api/v0/nodes", "/api/v0/tasks", "/api/v0/logs?node_ip=127.0.0.1", "/nodes?view=summary", "/logical/actors"),
    *("/api/packages/gcs/_ray_pkg_0.zip", "/worker/traceback?pid=1", "/api/no_such_thing", "/metrics"),
)
BROWSER = {"User-Agent": "Mozilla/5.0", "Origin": "http://attacker.example", "Sec-Fetch-Mode": "cors"}
TIMEOUT_SECONDS = 60.0


def listening(cluster: LocalCluster) -> dict[tuple[str, int], str]:
    """Where processes of a cluster listen: address and port, to the command of who does."""
    found = {}
    for each in of_home(cluster):
        try:
            for process in (each, *each.children(recursive=True)):  # a title may take the place of an environment
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN:
                        found[connection.laddr.ip.lower(), connection.laddr.port] = " ".join(process.cmdline())[:200]
        except psutil.NoSuchProcess:
            continue
    return found


def plain(host: str) -> str:
    """An address as IPv4 where it is one; of everywhere, one that leads here."""
    ip = ip_address(host)
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip
    return "127.0.0.1" if ip.is_unspecified else str(ip)


def answer(host: str, port: int) -> str:
    """What a port says to somebody who has no token: `token` where it wants one, else what it let happen."""
    try:
        status = requests.get(f"http://{host}:{port}/api/version", timeout=TIMEOUT_SECONDS).status_code
        return "token" if status == 401 else f"HTTP {status}"
    except requests.RequestException:
        pass
    codes = set()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in METHODS:
            call = channel.unary_unary(f"/{method}", lambda asked: asked, lambda told: told)
            try:
                call(b"", timeout=TIMEOUT_SECONDS)
                codes.add(f"{method} answered")
            except grpc.RpcError as error:
                codes.add(error.code().name)
    if codes <= {"UNAUTHENTICATED", "UNIMPLEMENTED"} and "UNAUTHENTICATED" in codes:
        return "token"
    return "gRPC " + ", ".join(sorted(codes))


WORK = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
@ray.remote(num_cpus=0)
class Worker:
    def here(self):
        return "there"
worker = Worker.remote()
print(ray.get(worker.here.remote()), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def at_work(local_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """The cluster with a driver and a worker, and all of its agents."""
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    with subprocess.Popen(
        [sys.executable, "-c", WORK, f"127.0.0.1:{local_cluster.port}"],
        env=local_cluster.environment(RAY_AUTH_MODE="token"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout and driver.stdout.readline() == "there\n"
        pause = threading.Event()
        while any(not any(agent in who for who in listening(local_cluster).values()) for agent in agents):
            pause.wait(0.5)  # a port sends no events
        yield local_cluster
        driver.communicate("")


def test_no_port_of_the_network_works_without_a_token(at_work: LocalCluster) -> None:
    local_cluster, open_ports = at_work, listening(at_work)
    shown = {place: who for place, who in open_ports.items() if not ip_address(place[0]).is_loopback}
    shown = {place: who for place, who in shown.items() if not place[0].startswith("::ffff:127.")}
    assert any(port == local_cluster.port for _, port in shown), "else nobody could join"
    assert local_cluster.dashboard_port not in {port for _, port in shown}
    told = {(*place, who): answer(plain(place[0]), place[1]) for place, who in shown.items()}
    assert not {key: said for key, said in told.items() if said != "token"}


def test_every_api_wants_a_token(local_cluster: LocalCluster) -> None:
    url = f"http://127.0.0.1:{local_cluster.dashboard_port}"
    for path in APIS:
        assert requests.get(url + path, timeout=TIMEOUT_SECONDS).status_code == 401, path
        wrong = {"Authorization": f"Bearer {'0' * 64}"}
        assert requests.get(url + path, headers=wrong, timeout=TIMEOUT_SECONDS).status_code == 403, path
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert requests.request(method, f"{url}/api/jobs/", json={}, timeout=TIMEOUT_SECONDS).status_code == 401


def test_a_web_page_cannot_submit(local_cluster: LocalCluster) -> None:
    """Not across sites, and not under a name of its own that leads here (CVE-2025-62593); with the token, too."""
    url = f"http://127.0.0.1:{local_cluster.dashboard_port}/api/jobs/"
    token = (local_cluster.home / ".ray" / "auth_token").read_text()
    job = {"entrypoint": "touch owned", "submission_id": "owned"}
    rebound = BROWSER | {"Host": "attacker.example", "Referer": "http://attacker.example/"}
    for headers in (BROWSER, rebound):
        assert requests.post(url, json=job, headers=headers, timeout=TIMEOUT_SECONDS).status_code == 401
        let_in = headers | {"Authorization": f"Bearer {token}"}
        assert requests.post(url, json=job, headers=let_in, timeout=TIMEOUT_SECONDS).status_code in (403, 405)
        cookie = headers | {"Cookie": f"ray-authentication-token={token}"}
        assert requests.post(url, json=job, headers=cookie, timeout=TIMEOUT_SECONDS).status_code in (403, 405)
    preflight = BROWSER | {"Access-Control-Request-Method": "POST"}
    reply = requests.options(url, headers=preflight, timeout=TIMEOUT_SECONDS)
    assert "Access-Control-Allow-Origin" not in reply.headers
    assert not [job for job in json.loads(local_cluster.ctl("jobs", "list", "--json")) if job["id"] == "owned"]


def test_another_user_reads_nothing(local_cluster: LocalCluster) -> None:
    """Of the token, or of the code of jobs: only one file holds the token, and Ray's folder is closed."""
    file = local_cluster.home / ".ray" / "auth_token"
    token = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    (node,) = json.loads((local_cluster.home / ".trunkline" / "nodes.json").read_text())
    state = os.lstat(node["folder"])
    assert state.st_uid == os.getuid() and state.st_mode & 0o777 == 0o700
    assert list(Path(node["folder"]).glob("ray/session_2*/logs")), "this is where Ray is"
    commands = [" ".join(process.cmdline()) for process in of_home(local_cluster)]
    assert not [command for command in commands if token in command]
    for root in (Path(node["folder"]), local_cluster.home / ".trunkline"):
        for folder, _, names in os.walk(root):
            for path in (Path(folder) / name for name in names):
                if path.is_file() and not path.is_symlink():
                    assert token.encode() not in path.read_bytes(), path


def test_a_stranger_does_not_reach_the_dashboard(local_cluster: LocalCluster) -> None:
    from cluster.control.local import _own_address

    address = _own_address()
    if address.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError):
        socket.create_connection((address, local_cluster.dashboard_port), timeout=5)
