"""`ctl serve up` without a cluster: it runs until Ctrl-C, and says in one sentence why it does not."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
import requests

from cluster.core.storage.artifact import Artifact
from tests.cluster.local_cluster import LocalCluster, free_port

pytestmark = pytest.mark.heavy


def nothing_runs(home: Path) -> LocalCluster:
    """A user without a cluster."""
    return LocalCluster(home, 0, 0)


def test_until_ctrl_c(tmp_path: Path, model: Artifact) -> None:
    port = free_port()
    user = nothing_runs(tmp_path)
    process = user.popen("serve", "up", "tiny", "--port", str(port), "--store", model.store_url)
    assert process.stdout is not None
    try:
        said = ""
        while "Ctrl-C ends it" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert f"http://127.0.0.1:{port}/v1" in said
        assert requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=10).json()["data"][0]["id"] == "tiny"
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(240) == 0, rest
        assert "stopped" in rest
    finally:
        process.kill()


def test_port_in_use(tmp_path: Path, model: Artifact) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        arguments = ("serve", "up", "tiny", "--port", str(port), "--store", model.store_url)
        said = nothing_runs(tmp_path).ctl(*arguments, code=4)
    assert f"port {port} is in use" in said


def test_no_such_model(tmp_path: Path, model: Artifact) -> None:
    said = nothing_runs(tmp_path).ctl("serve", "up", "tinny", "--store", model.store_url, code=3)
    assert "no artifact 'tinny'" in said and "Did you mean" in said
