"""Secrets planted wherever they go in are found in no log, metadata, artifact, command line or page of the cluster."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.cluster.local_cluster import LocalCluster, running
from tests.cluster.test_local import of_home

pytestmark = pytest.mark.heavy

# Where a user's shell has them when it calls `ctl`.
VARIABLES = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD"),
    *("OPENAI_API_KEY", "MY_OWN_PASSWORD"),
)
PAGES = (
    *("/", "/api/version", "/api/jobs/", "/api/jobs/{job}", "/api/jobs/{job}/logs", "/api/serve/applications/"),
    *("/api/cluster_status", "/api/component_activities", "/api/v0/cluster_metadata", "/events", "/logical/actors"),
    *("/nodes?view=summary", "/nodes/{node}", "/api/v0/logs?node_id={node}"),
    *("/api/v0/nodes?detail=true", "/api/v0/tasks?detail=true", "/api/v0/actors?detail=true"),
    *("/api/v0/jobs?detail=true", "/api/v0/workers?detail=true", "/api/v0/runtime_envs?detail=true"),
    *("/api/v0/cluster_events?detail=true", "/api/v0/objects?detail=true", "/api/v0/tasks/timeline"),
)
SCRIPT = '''
from typing import ClassVar
from cluster.pipeline import main, pipeline
from pipelines.specs import Spec

class WorkSpec(Spec, frozen=True):
    """Work of a test."""

    kind: ClassVar[str] = "work"
    stage: ClassVar[str] = "secret_stage:build"

@pipeline
def secretive(step):
    return step(WorkSpec())

if __name__ == "__main__":
    main(secretive)
'''
STAGE = """
import hashlib, os
from cluster.control import runtime

def inside():
    return "TOKEN" in os.environ

def build(ctx):
    runtime.connect(ctx.scaling)
    import ray

    print("digest", hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest(), flush=True)
    print("in a worker:", ray.get(ray.remote(inside).remote()), flush=True)
    return {}
"""


def canary(name: str) -> str:
    return f"canary-{hashlib.sha256(name.encode()).hexdigest()[:24]}"


@pytest.fixture
def hook() -> Iterator[tuple[str, list[str]]]:
    """A webhook, whose address is a secret, and the paths that it was asked for."""
    asked: list[str] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/{canary('hook')}", asked
    server.shutdown()
    server.server_close()


def files(*roots: Path) -> Iterator[tuple[str, bytes]]:
    """What stands in the files below some folders; not in sockets, and not in what goes meanwhile."""
    for root in roots:
        for folder, _, names in os.walk(root):
            for path in (Path(folder) / name for name in names):
                if path.is_file() and not path.is_symlink():
                    try:
                        yield str(path), path.read_bytes()
                    except FileNotFoundError:
                        continue


def told(cluster: LocalCluster, job: str, **environment: str) -> Iterator[tuple[str, bytes]]:
    """What the commands and the dashboard's pages say, with the token, and the command lines of the processes."""
    for command in (
        ("jobs", "list"), ("jobs", "list", "--json"), ("jobs", "list", "--cluster", "--json"), ("jobs", "show", job),
        ("jobs", "show", job, "--json"), ("jobs", "logs", job), ("status", "--json"), ("context", "list"),
        ("context", "show"), ("artifacts", "list"), ("artifacts", "show", "work/secretive"),
    ):  # fmt: skip
        yield "ctl " + " ".join(command), cluster.ctl(*command, **environment).encode()
    url = f"http://127.0.0.1:{cluster.dashboard_port}"
    token = (cluster.home / ".ray" / "auth_token").read_text()
    (node,) = [each["id"] for each in json.loads(cluster.ctl("status", "--json"))["nodes"] if each["alive"]]
    for page in PAGES:
        path = page.format(job=job, node=node)
        reply = requests.get(url + path, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        yield f"{path}: HTTP {reply.status_code}", reply.content
    for process in of_home(cluster):
        yield f"the command line of {process.pid}", " ".join(process.cmdline()).encode()


def nothing_is_told(cluster: LocalCluster, folder: Path, hook: tuple[str, list[str]]) -> None:
    """Submit a job by all secrets that there are, and look for them everywhere."""
    url, asked = hook
    planted = {name: canary(name) for name in VARIABLES}
    for name, text in (("token", canary("token")), ("hook", url)):
        (folder / name).write_text(text + "\n")
    user = folder / "user"  # what stands beside a script travels
    user.mkdir()
    for name, text in (("secretive.py", SCRIPT), ("secret_stage.py", STAGE)):
        (user / name).write_text(text)
    given = ("--id", "secretive", "--secret", f"TOKEN=file:{folder / 'token'}", "--notify", f"file:{folder / 'hook'}")
    said = cluster.ctl("submit", str(user / "secretive.py"), *given, **planted)
    assert f"digest {hashlib.sha256(canary('token').encode()).hexdigest()}" in said, "it reaches the program"
    assert "in a worker: False" in said
    assert asked == [f"/{canary('hook')}"], "it is told of the end"
    (node,) = json.loads((cluster.home / ".trunkline" / "nodes.json").read_text())
    ray_token = (cluster.home / ".ray" / "auth_token").read_text().strip()
    secrets = [*planted.values(), canary("token"), canary("hook"), ray_token]
    places: list[tuple[str, Any]] = [
        ("ctl submit", said.encode()),
        *told(cluster, "secretive", **planted),
        *files(cluster.home / "store", cluster.home / ".trunkline", Path(node["folder"])),
    ]
    assert len(places) > 100, "this is not where things are"
    found = [(place, secret) for place, data in places for secret in secrets if secret.encode() in data]
    assert not found
    assert not [place for place, _ in places if " HTTP " in place and not place.endswith("HTTP 200")], "is there"


def test_a_job_tells_no_secret(local_cluster: LocalCluster, tmp_path: Path, hook: tuple[str, list[str]]) -> None:
    nothing_is_told(local_cluster, tmp_path, hook)


@pytest.mark.exhaustive
def test_a_cluster_tells_no_secret_of_the_shell_that_started_it(
    tmp_path: Path, hook: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, canary(name))
    with running(tmp_path / "home") as cluster:
        nothing_is_told(cluster, tmp_path, hook)
