"""Starting a Ray cluster on this machine, or joining one: `ctl up`, `ctl up --join`."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from cluster.control import nodes, ports, runtime
from cluster.control.nodes import MARK, Node
from cluster.core.clusters import meant
from cluster.core.clusters.kinds import DASHBOARD_PORT, HEAD_PORT
from cluster.core.errors import NotReadyError
from cluster.core.home import home

START_SECONDS = 120.0
OBJECT_STORE_BYTES = 2 << 30
LOOPBACK = "127.0.0.1"
LOOPBACK_NETWORK = "127."
EVERYWHERE = ("0.0.0.0", "::", "")
# Ray's Prometheus ports have no token and listen on every interface of a node that others can join: they stay closed.
# A port that cannot be is how Ray's dashboard and autoscaler go without.
NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
}


def start_head(
    *,
    num_cpus: int | None = None,
    port: int = HEAD_PORT,
    dashboard_port: int = DASHBOARD_PORT,
    dashboard_host: str = LOOPBACK,
    metrics: bool = False,
) -> Node:
    """Start a head with token authentication; `metrics`: with open Prometheus ports.

    Raises NotReadyError where a port cannot be used, this machine is a node of another cluster, or Ray does not come up
    in time.
    """
    clean_up()
    if joined := next(iter(nodes.nodes()), None):
        raise NotReadyError(f"this machine is a node of the cluster at {joined.address}", "Leave it with `ctl down`.")
    ports.check(port, "--port")
    ports.check(dashboard_port, "--dashboard-port")
    if port == dashboard_port:
        raise NotReadyError(
            f"port {port} is asked for twice", f"Choose another with `--dashboard-port`, such as {ports.free()}."
        )
    runtime.use_token(create=True)
    own = _own_address()
    shown = own if dashboard_host in EVERYWHERE else dashboard_host
    node = Node(
        id=secrets.token_hex(8),
        role="head",
        address=f"{own}:{port}",
        dashboard=f"http://{shown}:{dashboard_port}",
        folder=runtime.private_folder(),
        num_cpus=num_cpus,
        metrics=metrics,
    )
    arguments = ["--head", f"--port={port}", f"--dashboard-host={dashboard_host}", f"--dashboard-port={dashboard_port}"]
    arguments += [f"--node-ip-address={own}", f"--ray-client-server-port={ports.free()}"]
    _ray_start(node, arguments)
    return node


def join(address: str, *, num_cpus: int | None = None, metrics: bool = False) -> Node:
    """Start a worker node that joins the head at `address`; on the head's own machine too. What is left here of nodes
    whose head is gone is ended first."""
    runtime.use_token(create=False)
    if not runtime.answers(address):
        raise NotReadyError(f"no Ray head answers at {address}", "Give HOST:PORT as `ctl up` printed it there.")
    clean_up()
    node = Node(
        id=secrets.token_hex(8),
        role="worker",
        address=address,
        folder=runtime.private_folder(),
        num_cpus=num_cpus,
        metrics=metrics,
    )
    _ray_start(node, [f"--address={address}"])
    _watch(node)
    return node


def join_again(node: Node) -> None:
    """Start a node anew that has ended, as it was. Called by the process that watches it.

    Raises NotReadyError where Ray does not start.
    """
    _ray_start(msgspec.structs.replace(node, folder=runtime.private_folder()), [f"--address={node.address}"])


def clean_up() -> None:
    """End what is left of nodes that lost their raylet or their head; those that work stay."""
    for node in nodes.nodes():
        if not (nodes.raylets(node) and (node.role == "head" or ports.listens(node.address))):
            nodes.stop(node)


def _watch(node: Node) -> None:
    """Start the process that keeps a node in its cluster (cluster/control/watch.py)."""
    with (home() / "watch.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-c", "from cluster.control.watch import main; main()", node.id],
            env={**os.environ, MARK: node.id, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _ray_start(node: Node, arguments: list[str]) -> None:
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        raise NotReadyError("Ray is not installed", "Run scripts/setup.")
    # Several nodes may share this machine and its address: each agent finds itself a free port.
    # All clusters' folder would be /tmp/ray, where other users can put code of theirs in the place of a job's.
    arguments.append(f"--temp-dir={runtime.within(node.folder)}")
    arguments += ["--dashboard-agent-listen-port=0", "--disable-usage-stats", f"--object-store-memory={_store_bytes()}"]
    if node.num_cpus is not None:
        arguments.append(f"--num-cpus={node.num_cpus}")
    environment = {**runtime.ENVIRONMENT, **({} if node.metrics else NO_METRICS), **os.environ, MARK: node.id}
    # The jobs' `python` is the one that we run in, whether or not its environment was activated.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    for variable in (meant.ADDRESS, meant.CONTEXT):  # a cluster's own processes mean that cluster
        environment.pop(variable, None)
    for attempt in range(1, runtime.START_ATTEMPTS + 1):
        nodes.write_down(node)  # before the first process: whatever happens to us, `ctl down` finds them
        try:
            reason = _try_start([str(ray), "start", *arguments], environment)
        except BaseException:
            nodes.stop(node)
            raise
        if not reason:
            return
        nodes.stop(node, keep_logs=True)
        if runtime.TIMED_OUT not in reason or attempt == runtime.START_ATTEMPTS:
            tries = "" if attempt == 1 else f" in {attempt} attempts"
            raise NotReadyError(
                f"Ray did not start{tries}: {reason}",
                f"Its logs: {runtime.within(node.folder)}/session_latest/logs; `ctl doctor` looks at this machine.",
            )


def _try_start(command: list[str], environment: dict[str, str]) -> str:
    """Run `ray start`; why it failed, empty where it did not."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            start_new_session=True,  # Ctrl-C in this terminal later is not meant for the cluster
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it {runtime.TIMED_OUT}, after {START_SECONDS:.0f} s"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if not done.returncode:
        return ""
    if any(runtime.TIMED_OUT in line for line in lines):
        return f"it {runtime.TIMED_OUT}: this machine may be too busy"
    return lines[-1] if lines else "no reason given"


def _own_address() -> str:
    """The address at which other machines reach this one, as far as it has one.

    Ray asks for the way to the internet, and without it for the machine's own name, which Debian has lead to loopback.
    """
    import psutil
    from ray.util import get_node_ip_address

    found = str(get_node_ip_address())
    if not found.startswith(LOOPBACK_NETWORK):
        return found
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses if name in up else ():
            if each.family == socket.AF_INET and not each.address.startswith(LOOPBACK_NETWORK):
                return each.address
    return found


def _store_bytes() -> int:
    """Shared memory for objects: modest, as stages stream their data, and never more than a third of what is there."""
    import psutil

    return min(OBJECT_STORE_BYTES, int(psutil.virtual_memory().available) // 3)
