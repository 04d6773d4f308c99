"""SSH contexts against real servers: what is checked before anything is started, and a cluster's whole life."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.control.clusters.connection import Connection
from cluster.control.clusters.tunnel import Tunnel
from cluster.core.clusters.kinds import Ssh
from cluster.core.errors import NotReadyError
from tests.cluster.local_cluster import CTL, environment, free_port, run
from tests.cluster.namespaces import Network
from tests.cluster.ssh_hosts import Host, SshHosts
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy

CLOCK = "import time\n_time = time.time\ntime.time = lambda: _time() - 3600\n"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHosts]:
    with SshHosts(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture(scope="module")
def hosts(servers: SshHosts) -> list[Host]:
    return [servers.start(address) for address in ("127.0.0.1", "127.0.0.2")]


Command = Callable[..., list[str]]


def here(*words: str) -> list[str]:
    return list(words)


def ctl(home: Path, *arguments: str, code: int = 0, timeout: float = 600, on: Command = here, **more: str) -> str:
    """`ctl` on a machine of its own: no file of it is on the hosts."""
    return run(on(*CTL, *arguments), environment(home, **more), code, timeout)


def add(home: Path, servers: SshHosts, names: list[str], *sets: str, on: Command = here) -> None:
    fields = [f"hosts=[{', '.join(names)}]", f"ssh_config={servers.config}", f"checkout={ROOT}", *sets]
    ctl(home, "context", "add", "lab", "ssh", "--use", *(word for field in fields for word in ("--set", field)), on=on)


def test_what_is_wrong_with_a_host_is_one_sentence(servers: SshHosts, hosts: list[Host], tmp_path: Path) -> None:
    odd = servers.start("127.0.0.3")
    names = [hosts[0].name, odd.name]
    add(tmp_path, servers, names, "python=python3", f"store={tmp_path}/shared")
    (tmp_path / "shared").mkdir()

    def refused() -> str:
        said = ctl(tmp_path, "up", code=4)
        assert said.count("\n") == 1
        assert not list(tmp_path.glob("shared/.reach*")), "the store is as it was"
        assert all(not (host.home / ".trunkline").exists() for host in (hosts[0], odd)), "nothing was started"
        return said

    fake = tmp_path / "fake" / "ray-9.9.9.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 9.9.9\n")
    odd.put_before_python(fake.parent)
    assert f"{odd.name} has Ray 9.9.9, this machine " in refused()

    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(CLOCK)
    odd.put_before_python(slow)
    assert f"{odd.name}'s clock is off by 3," in refused()

    other = tmp_path / "other" / "cluster"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "9.9"\n')
    odd.put_before_python(other.parent)
    assert f"{odd.name} has Trunkline 9.9, this machine " in refused()

    (odd.bin / "python3").write_text("#!/bin/sh\necho no such thing >&2\nexit 127\n")
    assert f"{odd.name}: no such thing." in refused()


def test_a_host_that_is_down_or_refuses_the_key(servers: SshHosts, hosts: list[Host], tmp_path: Path) -> None:
    down = f"127.0.0.1:{free_port()}"
    add(tmp_path, servers, [hosts[0].name, down], "python=python3")
    said = ctl(tmp_path, "up", code=4)
    assert said.count("\n") == 1
    assert f"{down} is not reached by SSH: " in said and "Connection refused" in said
    assert said in ctl(tmp_path, "down", code=4), "the others are ended before it is told"
    ctl(tmp_path, "context", "add", "out", "ssh", "--set", f"hosts=[{hosts[0].name}]", "--set", "key=/dev/null")
    assert "is not reached by SSH" in ctl(tmp_path, "status", "--context", "out", code=4)
    assert "is not this machine" in ctl(tmp_path, "up", "--port", "7000", code=2)
    assert "a process here cannot join it" in ctl(tmp_path, "serve", "scale", "x", "1", code=4)


def test_a_store_that_a_host_does_not_see(servers: SshHosts, hosts: list[Host], tmp_path: Path) -> None:
    """A host where the folder is another one; its Python plays what a mount would do."""
    blind = tmp_path / "blind"
    blind.mkdir()
    (blind / "sitecustomize.py").write_text(
        "from cluster.core.storage import location as l\n_init = l.Location.__init__\n"
        "l.Location.__init__ = lambda self, url: _init(self, str(url) + '-of-my-own')\n"
    )
    host = servers.start("127.0.0.4")
    host.put_before_python(blind)
    add(tmp_path, servers, [host.name], "python=python3", f"store={tmp_path}/shared")
    said = ctl(tmp_path, "up", code=4)
    assert f"{host.name} does not reach the store {tmp_path}/shared: " in said


def test_a_tunnel_ends_with_the_process_that_opened_it(servers: SshHosts, hosts: list[Host]) -> None:
    context = Ssh(hosts=(hosts[0].name,), ssh_config=str(servers.config))
    ours = int(hosts[0].name.rpartition(":")[2])
    tunnel = Tunnel(Connection(hosts[0].name, context), ours)
    assert tunnel.is_open
    tunnel.close()
    assert not tunnel.is_open
    opening = (
        "import os, sys\nfrom cluster.control.clusters.connection import Connection\n"
        "from cluster.control.clusters.tunnel import Tunnel\nfrom cluster.core.clusters.kinds import Ssh\n"
        f"context = Ssh(hosts=({hosts[0].name!r},), ssh_config={str(servers.config)!r})\n"
        f"tunnel = Tunnel(Connection(context.hosts[0], context), {ours})\n"
        "print(tunnel._process.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", opening], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=240)
    assert done.returncode == -9
    left = [process for process in psutil.process_iter() if process.pid == int(done.stdout)]
    _, alive = psutil.wait_procs(left, timeout=120)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    with pytest.raises(NotReadyError, match="is not reached by SSH"):
        Tunnel(Connection(f"127.0.0.1:{free_port()}", context), ours)


JOB = """
from typing import ClassVar
from cluster.pipeline import main, pipeline
from pipelines.specs import Spec

class SaidSpec(Spec, frozen=True):
    kind: ClassVar[str] = "said"
    stage: ClassVar[str] = "hello_stage:build"

@pipeline
def hello(step):
    return step(SaidSpec())

if __name__ == "__main__":
    main(hello)
"""
STAGE = """
from cluster.control import runtime

def build(ctx):
    runtime.connect(ctx.scaling)
    import ray

    print("nodes of the job:", len(ray.nodes()), flush=True)
    return {}
"""


@pytest.mark.exhaustive
def test_a_cluster_of_two_hosts(servers: SshHosts, hosts: list[Host], tmp_path: Path) -> None:
    ports = (f"port={free_port()}", f"dashboard_port={free_port()}")
    live(servers, hosts, tmp_path, *ports)
    left = [process for process in psutil.process_iter(["cmdline"]) if str(hosts[0].home) in str(process.info)]
    assert not [process for process in left if "raylet" in process.name()]


def live(servers: SshHosts, hosts: list[Host], home: Path, *ports: str, on: Command = here) -> None:
    """The whole life of a cluster of two hosts, as `ctl` sees it on the machine with that home."""
    store = home / "shared"
    store.mkdir()
    add(
        home,
        servers,
        [host.name for host in hosts],
        f"python={sys.executable}",
        f"store={store}",
        "num_cpus=1",
        *ports,
        on=on,
    )
    try:
        assert "Ray is up on 2 hosts (2 of them new)" in ctl(home, "up", on=on)
        assert "(0 of them new)" in ctl(home, "up", on=on), "nothing happens to what is there"
        found = json.loads(ctl(home, "status", "--json", on=on))
        assert [node["alive"] for node in found["nodes"]] == [True, True]
        assert found["resources"]["CPU"]["total"] == 2
        for host in hosts:
            place = host.home / ".trunkline" / "contexts" / "lab" / "token"
            assert place.stat().st_mode & 0o777 == 0o600
        assert "no Ray cluster is running here" in ctl(home, "status", code=4, on=on, RAY_ADDRESS="local")
        script = home / "user" / "hello.py"
        script.parent.mkdir()
        script.write_text(JOB)
        script.with_name("hello_stage.py").write_text(STAGE)
        said = ctl(home, "submit", str(script), on=on)
        assert "nodes of the job: 2" in said
        assert list(store.glob("said/*/artifact.json")), "by the store of the context"
        job = json.loads(ctl(home, "jobs", "list", "--json", on=on))[0]["id"]
        assert "nodes of the job: 2" in ctl(home, "jobs", "logs", job, on=on)
    finally:
        said = ctl(home, "down", on=on)
    assert "on 2 hosts" in said
    assert all(not (host.home / ".trunkline" / "contexts" / "lab").exists() for host in hosts)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[Network, SshHosts, list[Host]]]:
    """Two hosts and the user's machine, a network namespace each: every address is out of reach of the others'
    loopback, and a host that is down answers nothing."""
    with Network(tmp_path, ("first", "second", "mine")) as network, SshHosts(tmp_path) as servers:
        hosts = [servers.start(machine.address, machine.command) for machine in network.machines[:2]]
        yield network, servers, hosts


@pytest.mark.exhaustive
def test_a_host_that_answers_nothing(apart: tuple[Network, SshHosts, list[Host]]) -> None:
    network, servers, hosts = apart
    _, second, mine = network.machines
    add(mine.home, servers, [host.name for host in hosts], f"python={sys.executable}", on=mine.command)
    second.cut_link()
    for command in ("up", "down"):
        said = ctl(mine.home, command, code=4, on=mine.command, timeout=120)
        assert said.splitlines()[-1].startswith(f"ctl: {hosts[1].name} is not reached by SSH: "), said
        assert f"`ssh -p {hosts[1].name.rpartition(':')[2]} {second.address}`" in said, "what can be tried by hand"
        assert not (hosts[0].home / ".trunkline" / "contexts" / "lab").exists(), "nothing was started"


@pytest.mark.exhaustive
def test_a_cluster_of_machines_of_their_own(apart: tuple[Network, SshHosts, list[Host]]) -> None:
    network, servers, hosts = apart
    live(servers, hosts, network.machines[2].home, on=network.machines[2].command)
    assert not [process for machine in network.machines for process in machine.processes("raylet")]
