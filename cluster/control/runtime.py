"""The only `ray.init` of the project: joins the cluster that is meant, else starts one that dies with us.

Ray retries for minutes against a head that is dead, hangs or refuses the token. So the head is asked first, by one
RPC with a deadline, and the answer becomes one sentence. Every cluster is protected by Ray's token.
"""

from __future__ import annotations

import atexit
import math
import os
import secrets
import shutil
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from cluster.control import clusters, starting
from cluster.core import signals
from cluster.core.clusters.meant import ADDRESS, Meant, meant
from cluster.core.errors import NotReadyError
from cluster.core.identity import usercode
from cluster.core.specs.scaling import ScalingSpec

PROBE_SECONDS = 10.0
END_SECONDS = 10.0
START_ATTEMPTS = 2
TIMED_OUT = "timed out during startup"  # what Ray says on a machine that is too busy
DEBUG_VARIABLE = "TRUNKLINE_DEBUG"  # set: Ray's own logs, the workers' output and progress bars are shown
TOKEN_PLACES = "RAY_AUTH_TOKEN, the file named by RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a task without GPUs must not change what torch sees
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # ours have environments of their own: Ray would start as many in vain
    "RAY_worker_niceness": "0",  # Ray's default of 15 lets anything else on the machine starve training
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",  # one that answers nobody will not finish what it has begun
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "true",  # said aloud, or tokenizers warns in every process that forks
}
# A private head that is gone never comes back: its helpers end within seconds instead of a minute.
# Nobody asks it for Prometheus' figures, whose port would be open to the network.
PRIVATE_ENVIRONMENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "RAY_enable_metrics_collection": "0"}
# An error that we raise is told once; Ray would print its traceback when the last reference to the task goes.
QUIET = {"RAY_IGNORE_UNHANDLED_ERRORS": "1"}
_folders: list[str] = []  # of the private cluster
_told: set[str] = set()  # those in which somebody was told to look
WORKER_VARIABLES = ("DS_ACCELERATOR", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "TOKENIZERS_PARALLELISM")


def debugging() -> bool:
    return bool(os.environ.get(DEBUG_VARIABLE))


def connect(scaling: ScalingSpec) -> None:
    """Make Ray usable in this process; nothing happens where it is already.

    Raises NotReadyError where the cluster that is meant does not answer, refuses the token, or cannot be joined.
    """
    import ray
    from ray._private import auto_init_hook

    if ray.is_initialized():
        return
    auto_init_hook.enable_auto_connect = False  # a thread that outlives `disconnect` would join whatever it finds
    found = clusters.find()
    address = found.head_address()
    private = not address
    _prepare(private)
    if not scaling.gpus_per_worker:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    options: dict[str, Any] = {"logging_level": "info" if debugging() else "error", "log_to_driver": debugging()}
    if private:
        options |= {"address": "local", "num_cpus": _cpus(scaling), "include_dashboard": False}
        _folders.append(private_folder())
        options["_temp_dir"] = within(_folders[-1])
    else:
        # The cluster's own processes were started without our environment: the job carries what workers need.
        carried = {key: os.environ[key] for key in WORKER_VARIABLES if key in os.environ}
        if address != "auto":  # what asks for the dashboard in a worker must not take that of another cluster
            carried[ADDRESS] = address
        options |= {"address": address, "runtime_env": {"env_vars": carried}}
    if not debugging():
        starting.tell_errors_in_a_line()
    try:
        with signals.kept(), _around_start(private):
            _init({**options, "job_config": _job_config()})
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = "a private Ray cluster did not start" if private else f"could not join the Ray cluster at {address}"
        raise NotReadyError(f"{where}: {str(error).splitlines()[0]}", "Run `ctl doctor`.") from error
    atexit.register(disconnect)


def _around_start(private: bool) -> AbstractContextManager[None]:
    if debugging():
        return nullcontext()
    return starting.without_helpers() if private else starting.without_log()


def _init(options: dict[str, Any]) -> None:
    """`ray.init`, once more where the machine was too busy for the first attempt."""
    import ray

    for attempt in range(START_ATTEMPTS):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray has no class for it
            if TIMED_OUT not in str(error):
                raise
            ray.shutdown()
            if attempt + 1 == START_ATTEMPTS:
                raise RuntimeError(f"it {TIMED_OUT}, {START_ATTEMPTS} times; this machine may be too busy") from error


def _job_config() -> Any:
    """What workers are told of the script: its folder is on their path, and what it defines travels by value."""
    from ray import cloudpickle
    from ray.job_config import JobConfig

    for name, module in sys.modules.items():
        if name.startswith(usercode.SCRIPT):
            cloudpickle.register_pickle_by_value(module)
    folder = usercode.folder()
    return JobConfig(_py_driver_sys_path=[str(folder)] if folder else [])  # as Ray does for `python script.py`


def require_gpus(count: float) -> None:
    """Raise NotReadyError where a private cluster has fewer GPUs: it does not grow, and Ray would wait for ever."""
    import ray

    if not count or not meant().here:
        return
    there = ray.cluster_resources().get("GPU", 0)
    if there < count:
        raise NotReadyError(
            f"scaling.gpus_per_worker and scaling.gpus_per_rollout ask for {count:g} GPUs, this machine has {there:g}",
            "Lower them (0 works on CPUs), or name a cluster that has as many (`--context`, RAY_ADDRESS).",
        )


def has_room(scaling: ScalingSpec) -> bool:
    """Whether the cluster has a CPU for data tasks beside a whole training group. Connects."""
    import ray

    connect(scaling)
    return bool(ray.cluster_resources().get("CPU", 0) >= _training_cpus(scaling) + 1)


def disconnect() -> None:
    """Leave the cluster; a private one ends, with every process of it."""
    import ray

    if not ray.is_initialized():
        return
    import psutil

    raylets = [p for p in psutil.Process().children() if p.name() == "raylet"] if _folders else []
    family = [process for raylet in raylets for process in raylet.children(recursive=True)]
    ray.shutdown()
    _, left = psutil.wait_procs(family, timeout=END_SECONDS)
    for process in left:  # Ray's workers now and then hang in their own end
        with suppress(psutil.NoSuchProcess):  # some end with another one
            process.kill()
    while _folders:
        folder = _folders.pop()
        if not debugging() and folder not in _told:
            shutil.rmtree(folder, ignore_errors=True)  # what was killed a moment ago may still write


def logs_folder() -> str:
    """Where Ray keeps the logs of its workers, which then outlive the cluster; empty where this process has no Ray."""
    import ray

    node = ray._private.worker._global_node if ray.is_initialized() else None
    if not node:
        return ""
    _told.update(_folders)
    return str(node.get_logs_dir_path())


def private_folder() -> str:
    """A new folder that only this user can enter, for what Ray keeps on this machine: sockets, logs, the code of jobs.

    Not below $TMPDIR: a socket's path must be shorter than 108 bytes.
    """
    return tempfile.mkdtemp(prefix=f"trunkline-{os.getuid()}-", dir="/tmp")


def within(folder: str) -> str:
    """Ray's own folder (`--temp-dir`) within a private one: Ray opens it, and all that is in it, to every user."""
    return f"{folder}/ray"


def _prepare(private: bool) -> None:
    """Set the environment that Ray, its workers and the libraries in them read."""
    if private:
        os.environ.update(PRIVATE_ENVIRONMENT)
    if not debugging():
        for key, value in (ENVIRONMENT | QUIET).items():
            os.environ.setdefault(key, value)
        if data := sys.modules.get("ray.data"):  # imported before us: it has read its environment already
            data.DataContext.get_current().enable_progress_bars = False
    use_token(create=private)


def _cpus(scaling: ScalingSpec) -> int:
    """Logical CPUs of a private cluster: the machine's, or more where a run asks for more workers than there are."""
    training = _training_cpus(scaling) + 1  # one for what runs beside the workers
    rollouts = math.ceil(scaling.rollout_workers * scaling.cpus_per_rollout)
    return max(os.cpu_count() or 1, training + rollouts, scaling.data_workers)


def _training_cpus(scaling: ScalingSpec) -> int:
    return math.ceil(scaling.num_workers * scaling.cpus_per_worker)


def token_path() -> Path:
    """The file that Ray's token is read from, unless RAY_AUTH_TOKEN holds it."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def use_token(*, create: bool) -> bool:
    """Switch Ray's token authentication on in this process and its children; False where there is no token.

    `create`: make one, readable by its owner only (Ray's own generator lets everybody read it). RAY_AUTH_MODE is
    respected where it is set.
    """
    _take_token(meant())
    path = token_path()
    if not os.environ.get("RAY_AUTH_TOKEN") and not path.exists():
        if not create or os.environ.get("RAY_AUTH_MODE", "token") != "token":
            return False
        _create_token(path)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if "ray" in sys.modules:  # imported before us: it has read its environment already
        from ray._raylet import Config

        Config.initialize("")
    return os.environ["RAY_AUTH_MODE"] == "token"


def _take_token(found: Meant) -> None:
    """Have Ray find the token where the context says that it is."""
    if name := found.context.token_env:
        if not os.environ.get(name):
            raise NotReadyError(f"{found} reads the token from {name}, which is not set", "Set it, and export it.")
        os.environ["RAY_AUTH_TOKEN"] = os.environ[name]
    elif file := found.context.token_file:
        os.environ["RAY_AUTH_TOKEN_PATH"] = os.path.expanduser(file)
        os.environ.pop("RAY_AUTH_TOKEN", None)


def _create_token(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(partial, path)  # of two commands at once one wins, and both use its token
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def answers(address: str, timeout_seconds: float = PROBE_SECONDS) -> bool:
    """Whether a Ray head answers at `address` (`host:port`). Raises NotReadyError where it refuses our token."""
    use_token(create=False)
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.exceptions import AuthenticationError

    channel = init_grpc_channel(address)
    stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
    try:
        stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=timeout_seconds)
    except AuthenticationError:
        raise refused(address) from None
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise refused(address) from None
        return False
    finally:
        channel.close()
    return True


def refused(address: str) -> NotReadyError:
    """The error for a missing or wrong token."""
    return NotReadyError(f"the Ray cluster at {address} refuses the token", f"Put the cluster's own in {TOKEN_PLACES}.")
