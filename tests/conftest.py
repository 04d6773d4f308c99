"""Fixtures that all tests share: a store of their own, and one private Ray cluster for the whole session."""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from cluster.core.storage.artifact import Artifact

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"

# Tests must neither find a user's cluster, store or token, nor leave anything in a user's home.
for variable in ("RAY_ADDRESS", "TRUNKLINE_STORE", "TRUNKLINE_CACHE", "RAY_AUTH_TOKEN", "TRUNKLINE_DEBUG"):
    os.environ.pop(variable, None)


# How long an example may take is the machine's business; a whole test has a limit of its own.
settings.register_profile("trunkline", deadline=None)
settings.load_profile("trunkline")


# A shell that starts a command in the background has it ignore Ctrl-C, and its children inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


CLUSTERS = {"ray_cluster", "local_cluster", "served"}


@cache
def shares_a_cluster(file: Path) -> bool:
    """Whether tests of a file use the cluster of `ctl up` that their package shares."""
    return bool(re.search(r"\b(local_cluster|served): ", file.read_text()))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What uses a cluster is heavy, whether its file says so or not. Files with heavy tests come first, and before all
    those that go to one process together: of two processes none is left alone with a long one in the end."""
    for item in items:
        if CLUSTERS & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.heavy)
    heavy = {item.path for item in items if item.get_closest_marker("heavy")}
    items.sort(key=lambda item: (not shares_a_cluster(item.path), item.path not in heavy))


class ByCluster(LoadFileScheduling):
    """A file of tests goes to one process, with all of its package that share a cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        return str(file.parent if shares_a_cluster(ROOT / file) else file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByCluster:
    return ByCluster(config, log)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, shared_folder: Path) -> Iterator[None]:
    home = tmp_path_factory.mktemp("home")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(home))
    patch.setenv("TRUNKLINE_HOME", str(home / ".trunkline"))
    patch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    # What vLLM finds out of an architecture takes a process that imports it, and is the same for every home.
    patch.setenv("VLLM_CACHE_ROOT", str(shared_folder / "vllm"))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def smollm2_model(shared_folder: Path) -> Artifact:
    """SmolLM2-135M-Instruct, out of the package that carries it. Of two processes the second waits for the first."""
    from cluster.core.build import build
    from cluster.core.errors import NotReadyError
    from cluster.core.storage.store import Store
    from pipelines.specs import PretrainedSpec

    try:
        return build(PretrainedSpec(), {}, store=Store(shared_folder / "smollm2"), name="smollm2")
    except NotReadyError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def s3_server() -> Iterator[None]:
    """A real S3 server, and the environment that leads to it. Servers of one process share their buckets."""
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request would bury what failed
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    """An empty artifact store on the local disk."""
    from cluster.core.storage.store import Store

    return Store(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def chat_inputs(shared_folder: Path, ray_cluster: None) -> dict[str, Artifact]:
    """Conversations, and a tiny model that has learned to answer them."""
    from cluster.core.storage.store import Store
    from tests.alignment.tiny_chat import make_sft

    return make_sft(Store(shared_folder / "chat" / "artifacts"))


@pytest.fixture(scope="session")
def ray_cluster(_own_home: None) -> Iterator[None]:
    """A private local Ray cluster with four logical CPUs, shared by every test that runs stages in this process."""
    from cluster.control import runtime
    from pipelines.specs import ScalingSpec

    runtime.connect(ScalingSpec(num_workers=3, data_workers=3))
    yield
    runtime.disconnect()
