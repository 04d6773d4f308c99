"""A context of kind kubernetes on a real one, as typed: up, submit, jobs, logs, stop, status, serve, down."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.core.storage.store import Store
from pipelines.specs import InfraSpec, PretrainSpec
from tests.cluster.local_cluster import CTL
from tests.conftest import ROOT
from tests.evaluation.tiny_run import commit_model
from tests.kubernetes.on_pods import SMALL, hand_over, until, volume, with_pods
from tests.kubernetes.server import Server
from tests.serving.conftest import write_model

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(1500)]

NAMESPACE = "lab"
SCRIPT = '''
"""A pipeline of one step, whose stage is beside it."""
from typing import ClassVar, Literal

from cluster.pipeline import main, pipeline
from pipelines.specs import Spec


class WorkSpec(Spec, frozen=True):
    """Work of a test."""

    kind: ClassVar[str] = "work"
    stage: ClassVar[str] = "tiny_stage:build"

    outcome: Literal["ok", "wait", "input-error"] = "ok"
    """How it ends."""


@pipeline
def tiny(step):
    return step(WorkSpec())


if __name__ == "__main__":
    main(tiny)
'''
STAGE = """
import threading

import ray

from cluster.control import runtime
from cluster.core.errors import InputError


@ray.remote(num_cpus=1)
def where():
    return ray.util.get_node_ip_address()


def build(ctx):
    print("the stage that travelled runs", flush=True)
    if ctx.spec.outcome == "input-error":
        raise InputError("no such corpus")
    if ctx.spec.outcome == "wait":
        threading.Event().wait()
    runtime.connect(ctx.scaling)
    return {"elsewhere": int(ray.get(where.remote()) != ray.util.get_node_ip_address())}
"""


class Laptop:
    """`ctl` on a machine that reaches the API server and has a home of its own."""

    def __init__(self, home: Path) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TRUNKLINE_", "KUBE"))}
        self.environment = {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT)}

    def ctl(self, *arguments: str, code: int = 0) -> str:
        """What it printed (stderr last)."""
        done = subprocess.run(
            [*CTL, *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def jobs(self) -> dict[str, dict[str, Any]]:
        return {job["id"]: job for job in json.loads(self.ctl("jobs", "list", "--json"))}


def add_context(laptop: Laptop, server: Server) -> None:
    fields = {"kubeconfig": str(server.kubeconfig), "namespace": NAMESPACE, "scaling.num_workers": 1}
    fields |= {f"infra.{name}": value for name, value in SMALL.items()}
    sets = [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
    laptop.ctl("context", "add", "pods", "kubernetes", "--use", *sets)


def test_a_cluster_from_up_to_down(tmp_path: Path) -> None:
    script = tmp_path / "user" / "tiny.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    (script.parent / "tiny_stage.py").write_text(STAGE)
    laptop = Laptop(tmp_path)
    with with_pods("--nodes", "2", "--cpus", "6") as server:
        add_context(laptop, server)
        assert "ctl up" in laptop.ctl("status", code=4)
        assert "Ray is up in namespace lab" in laptop.ctl("up")

        assert "the stage that travelled runs" in laptop.ctl("submit", str(script), "--id", "first")
        assert "the stage that travelled runs" in laptop.ctl("submit", str(script), "--id", "first"), "the same job"
        other = ("--id", "first", "--set", "work.outcome=wait")
        assert "other fields" in laptop.ctl("submit", str(script), *other, code=3)
        job = laptop.jobs()["first"]
        assert (job["status"], job["exit_code"]) == ("SUCCEEDED", 0)
        store = server.state / "claims" / NAMESPACE / "trunkline-store"
        (record,) = store.glob("work/*/artifact.json")
        assert json.loads(record.read_text())["metrics"] == {"elsewhere": 1}, "tasks run on workers, not on the head"
        assert (store / ".jobs" / "records" / "first" / "end.json").is_file()
        assert not Path("/mnt/trunkline").exists(), "the volume is none of this machine's"

        said = laptop.ctl("submit", str(script), "--set", "work.outcome=input-error", code=3)
        assert "no such corpus" in said and "exit code 3" in said
        waits = laptop.ctl("submit", str(script), "--id", "waits", "--set", "work.outcome=wait", "--detach").strip()
        until("its first words", 60, lambda: "the stage" in laptop.ctl("jobs", "logs", waits))
        found = json.loads(laptop.ctl("status", "--json"))
        assert [node["alive"] for node in found["nodes"]] == [True, True]
        assert "waits" in [job["id"] for job in found["jobs"] if job["status"] == "RUNNING"]
        assert "STOPPED" in laptop.ctl("jobs", "stop", waits)
        assert "folder of this machine" in laptop.ctl("submit", str(script), "--store", str(tmp_path / "s"), code=3)

        laptop.ctl("up")
        served(laptop, server, tmp_path)

        assert "RayCluster trunkline" in laptop.ctl("down")
        left = json.loads(server.kubectl("-n", NAMESPACE, "get", "raycluster,pod,pvc", "-o", "json"))["items"]
        assert [each["kind"] for each in left] == ["PersistentVolumeClaim"]
        assert record.is_file()
        assert "Nothing is running there" in laptop.ctl("down")


def served(laptop: Laptop, server: Server, folder: Path) -> None:
    infra = InfraSpec(namespace=NAMESPACE)
    write_model(folder / "model")
    model = commit_model(Store(str(volume(server, infra))), folder / "model", PretrainSpec(), {})
    hand_over(volume(server, infra))
    small = ("--set", "endpoint.kv_cache_gib=0.05", "--set", "endpoint.max_model_len=64")
    assert "chat" in laptop.ctl("serve", "up", model.record.ref, "--name", "chat", *small)
    (endpoint,) = json.loads(laptop.ctl("serve", "list", "--json"))
    assert (endpoint["name"], endpoint["status"], endpoint["model"]) == ("chat", "RUNNING", model.record.ref)
    path = f"/api/v1/namespaces/{NAMESPACE}/services/trunkline-head-svc:8000/proxy/v1/completions"
    status, answer = server.ask("POST", path, {"model": "chat", "prompt": "def", "max_tokens": 2})
    assert status == 200 and answer["usage"]["completion_tokens"] >= 1
    assert "ghost" in laptop.ctl("serve", "up", "pretrain/ghost", "--name", "other", code=3)
    assert "chat is down" in laptop.ctl("serve", "down", "chat")
    assert json.loads(laptop.ctl("serve", "list", "--json")) == []
