"""`ctl serve up` without a cluster: it runs until Ctrl-C, and says in one sentence why it does not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import requests
from safetensors.torch import load_file, save_file

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model

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


def test_an_engine_that_dies_is_reported(tmp_path: Path, model: Artifact) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(model.local(), folder)
    os.remove(folder / "artifact.json")
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    store = Store(tmp_path / "store")
    commit_model(store, folder, PretrainSpec(seed=9), {})
    arguments = ("serve", "up", "tiny", "--port", str(free_port()), "--store", store.root.url)
    said = nothing_runs(tmp_path / "home").ctl(*arguments, code=5, timeout=840)
    assert "endpoint 'tiny' did not start" in said
    assert "norm.weight" in said, said  # not only that a child process died, but of what
