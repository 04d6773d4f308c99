"""A Ray cluster on this machine: `ctl up`, `ctl up --join`, `ctl down`.

Ray's own `ray stop` ends every Ray on the machine. We end what we started and nothing else: all processes of a node
inherit a mark in their environment, which neither a reused process id nor a re-parented child can confuse.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from cluster.control import runtime
from cluster.core.errors import InputError, NotReadyError

if TYPE_CHECKING:
    import psutil

MARK = "TRUNKLINE_NODE"
PORT = 6379
DASHBOARD_PORT = 8265
START_SECONDS = 120.0
STOP_SECONDS = 20.0  # a job's driver may save its work before it goes
CONNECT_SECONDS = 2.0
AFRESH = "Run `ctl down`, then `ctl up`."
POLL_SECONDS = 0.5
OBJECT_STORE_BYTES = 2 << 30
WORKER_PORTS = range(10002, 20000)  # Ray's own choice for its workers, which it wants for itself
# Ray's Prometheus ports have no token and listen on every interface of a node that others can join: they stay closed.
# A port that cannot be is how Ray's dashboard and autoscaler go without.
NO_METRICS = {
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
}


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A Ray node that was started here."""

    id: str
    role: Literal["head", "worker"]
    address: str
    dashboard: str = ""


def home() -> Path:
    """Where the state of this machine's cluster is kept: $TRUNKLINE_HOME, else ~/.trunkline."""
    return Path(os.environ.get("TRUNKLINE_HOME") or Path.home() / ".trunkline")


def _state_file() -> Path:
    return home() / "nodes.json"


def nodes() -> list[Node]:
    """The nodes that were started here and not stopped, whether or not they still live."""
    try:
        return msgspec.json.decode(_state_file().read_bytes(), type=list[Node])
    except FileNotFoundError:
        return []
    except msgspec.DecodeError as error:
        raise InputError(f"{_state_file()}: {error}", "Run `ray stop`, and remove the file.") from None


def _save(found: list[Node]) -> None:
    path = _state_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(msgspec.json.encode(found))
    partial.replace(path)


def running_head() -> Node | None:
    """The head that `ctl up` started here, if it lives."""
    return next((node for node in nodes() if node.role == "head" and processes(node)), None)


def processes(node: Node) -> list[psutil.Process]:
    """The living processes of a node: those that carry its mark, and their descendants."""
    import psutil

    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.pid not in found and process.environ().get(MARK) == node.id:
                found |= {member.pid: member for member in (process, *process.children(recursive=True))}
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found.values() if _lives(process)]


def start_head(*, num_cpus: int | None, port: int, dashboard_port: int, metrics: bool = False) -> Node:
    """Start a head with token authentication and its dashboard on 127.0.0.1; `metrics`: with open Prometheus ports.

    Raises NotReadyError where a port cannot be used or Ray does not come up in time.
    """
    for node in nodes():
        stop(node)  # its processes died without us; here go the last of them, and its entry
    _check_port(port, "--port")
    _check_port(dashboard_port, "--dashboard-port")
    if port == dashboard_port:
        raise NotReadyError(
            f"port {port} is asked for twice", f"Choose another with `--dashboard-port`, such as {free_port()}."
        )
    runtime.use_token(create=True)
    address = f"{_own_address()}:{port}"
    node = Node(id=secrets.token_hex(8), role="head", address=address, dashboard=f"http://127.0.0.1:{dashboard_port}")
    arguments = ["--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    # Ray keeps the address of the cluster that jobs join in its folder, and all clusters' folder is /tmp/ray.
    arguments += [f"--ray-client-server-port={free_port()}", f"--temp-dir={_folder(port)}"]
    _ray_start(node, arguments, num_cpus, metrics)
    return node


def join(address: str, *, num_cpus: int | None, metrics: bool = False) -> Node:
    """Start a worker node that joins the head at `address`; on the head's own machine too."""
    runtime.use_token(create=False)
    if not runtime.answers(address):
        raise NotReadyError(f"no Ray head answers at {address}", "Give HOST:PORT as `ctl up` printed it there.")
    node = Node(id=secrets.token_hex(8), role="worker", address=address)
    _ray_start(node, [f"--address={address}"], num_cpus, metrics)
    return node


def _folder(port: int) -> Path:
    """Where a head keeps its logs and sockets: the path of a socket must be shorter than 104 bytes."""
    return Path(f"/tmp/trunkline-{os.getuid()}-{port}")


def _ray_start(node: Node, arguments: list[str], num_cpus: int | None, metrics: bool) -> None:
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        raise NotReadyError("Ray is not installed", "Run scripts/setup.")
    # Several nodes may share this machine and its address: each agent finds itself a free port.
    arguments += ["--dashboard-agent-listen-port=0", "--disable-usage-stats", f"--object-store-memory={_store_bytes()}"]
    if num_cpus is not None:
        arguments.append(f"--num-cpus={num_cpus}")
    environment = {**runtime.ENVIRONMENT, **({} if metrics else NO_METRICS), **os.environ, MARK: node.id}
    # The jobs' `python` is the one that we run in, whether or not its environment was activated.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment.pop("RAY_ADDRESS", None)
    for attempt in range(1, runtime.START_ATTEMPTS + 1):
        _save([*nodes(), node])  # before the first process: whatever happens to us, `ctl down` finds them
        try:
            reason = _try_start([str(ray), "start", *arguments], environment)
        except BaseException:
            stop(node)
            raise
        if not reason:
            return
        stop(node)
        if runtime.TIMED_OUT not in reason or attempt == runtime.START_ATTEMPTS:
            tries = "" if attempt == 1 else f" in {attempt} attempts"
            raise NotReadyError(
                f"Ray did not start{tries}: {reason}",
                "Its logs are in session_latest/logs in /tmp/trunkline-*; `ctl doctor` looks at this machine.",
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


def stop(node: Node) -> int:
    """End a node's processes, politely first, and forget it; how many there were.

    Jobs go first, and may save their work; then the raylet, which takes leave of the head; then whatever is left.
    """
    found = processes(node)
    servers = [process for process in found if _name(process) in ("raylet", "gcs_server")]
    _end([process for process in found if process not in servers])
    _end([process for process in servers if _name(process) == "raylet"])
    if left := _end(processes(node), insist=True):
        raise NotReadyError(f"processes {[p.pid for p in left]} do not end", "Look at them with `ps`, and try again.")
    _save([other for other in nodes() if other.id != node.id])
    return len(found)


def _end(found: list[psutil.Process], *, insist: bool = False) -> list[psutil.Process]:
    """Ask processes to end (`insist`: kill them) and wait until they have; those that have not in time."""
    import psutil

    left = [process for process in found if _lives(process)]
    for process in left:
        try:
            process.kill() if insist else process.terminate()
        except psutil.NoSuchProcess:
            continue
    deadline = time.monotonic() + STOP_SECONDS
    while left and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=POLL_SECONDS)
        left = [process for process in left if _lives(process)]
    return left


def _name(process: psutil.Process) -> str:
    import psutil

    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _lives(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended may stay a zombie until its parent looks."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _check_port(port: int, option: str) -> None:
    if port in WORKER_PORTS:
        raise NotReadyError(
            f"{option} {port}: Ray's workers use the ports {WORKER_PORTS[0]} to {WORKER_PORTS[-1]}",
            f"Choose another, such as {free_port()}.",
        )
    if port_taken(port):
        raise NotReadyError(
            f"port {port} is in use", f"Choose another with `{option}`, such as {free_port()}, or stop what holds it."
        )


def port_taken(port: int) -> bool:
    """Whether something on this machine listens on a TCP port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def dead(head: Node) -> NotReadyError:
    """The error for a head that was started here and does not answer."""
    return NotReadyError(f"the head at {head.address} does not answer", AFRESH)


def listens(address: str) -> bool:
    """Whether anything takes connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nothing listens on, and that Ray's workers do not want."""
    while True:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        if port not in WORKER_PORTS:
            return port


def _own_address() -> str:
    from ray.util import get_node_ip_address

    return str(get_node_ip_address())


def _store_bytes() -> int:
    """Shared memory for objects: modest, as stages stream their data, and never more than a third of what is there."""
    import psutil

    return min(OBJECT_STORE_BYTES, int(psutil.virtual_memory().available) // 3)
