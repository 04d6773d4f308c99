"""`ctl serve learn` as it is typed, against Serve's account of an endpoint as its dashboard gives it."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.feedback import Feedback
from cluster.core.specs.spec import fields
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainedSpec, QuantizeSpec
from serving.endpoints import MODEL_VARIABLE, ORIGIN_VARIABLE
from tests.alignment.test_feedback import Log, answer, asked
from tests.conftest import ROOT
from tests.made import make


class Dashboard:
    """What a Ray dashboard says of the endpoints behind it."""

    def __init__(self) -> None:
        self.details: dict[str, Any] = {"applications": {}, "http_options": {"host": "127.0.0.1", "port": 8000}}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(outer.details if "/serve/" in self.path else {"ray_version": "2"}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *said: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def serves(self, artifact: Artifact, spec: EndpointSpec, name: str = "chat") -> None:
        made_of = {"store": artifact.store_url, "kind": artifact.kind, "fingerprint": artifact.fingerprint}
        origin = json.dumps({"spec": fields(spec), **made_of})
        variables = {MODEL_VARIABLE: artifact.record.ref, ORIGIN_VARIABLE: origin}
        actor = {"runtime_env": {"env_vars": variables}}
        deployment = {"message": "", "replicas": [], "deployment_config": {"ray_actor_options": actor}}
        application = {"status": "RUNNING", "message": "", "route_prefix": "/", "deployments": {"Vllm": deployment}}
        self.details["applications"][name] = application


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    found = Dashboard()
    found.thread.start()
    yield found
    found.server.shutdown()
    found.thread.join()
    found.server.server_close()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "said")


@pytest.fixture
def model(tmp_path: Path) -> Artifact:
    return make(Store(tmp_path / "artifacts"), PretrainedSpec(), {}, {"config.json": b"{}"}, "mine")


def ctl(dashboard: Dashboard, *arguments: str, code: int = 0) -> str:
    environment = os.environ | {"RAY_ADDRESS": dashboard.url}
    program = "from cluster.cli.app import run; run()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=240, check=False)  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.heavy
def test_it_says_what_was_said_and_what_to_type(dashboard: Dashboard, model: Artifact, log: Log) -> None:
    log.say("choice", **asked("a"), chosen=answer("x"), rejected=answer("y", artifact="sft/other-1"))
    log.say("edit", **asked("b"), answer=answer("z"), edit="w")
    log.say("thumb", **asked("c"), answer=answer("t"), thumb="up")
    log.say("thumb", **asked("c"), answer=answer("t"), thumb="down")
    spec = EndpointSpec(model="mine", port=9000, max_model_len=64, feedback=Feedback(path=str(log.folder)))
    dashboard.serves(model, spec)
    said = ctl(dashboard, "serve", "learn", "chat", "--set", "dpo.epochs=3")
    assert f"chat serves {model.record.ref}" in said
    assert "1 choice, 1 edit, 1 thumb; 1 more are taken back or said again" in said
    assert "1 of answers by sft/other-1" in said
    learn, serve = (shlex.split(line.split("  ", 1)[1]) for line in said.splitlines()[-2:])
    assert learn[:5] == ["ctl", "run", "pipelines/dpo.py", "--name", "chat"] and "dpo.epochs=3" in learn
    assert f"dpo.inputs.model={model.record.ref}" in learn and f"preferences.path={log.folder}" in learn
    sets = {word for before, word in itertools.pairwise(serve) if before == "--set"}
    assert sets == {"endpoint.port=9000", "endpoint.max_model_len=64", f"endpoint.feedback.path={log.folder}"}
    assert serve[:6] == ["ctl", "serve", "up", "dpo/chat", "--name", "chat"]
    planned = ctl(dashboard, "serve", "learn", "chat", "--by", "reward")
    assert "pipelines/reward.py" in planned and "serve up" not in planned


@pytest.mark.heavy
def test_of_compressed_weights_it_trains_what_they_were_made_of(
    dashboard: Dashboard, model: Artifact, log: Log
) -> None:
    small = make(Store(model.store_url), QuantizeSpec(), {"model": model}, {"config.json": b"{}"}, "small")
    log.say("thumb", **asked("c"), answer=answer("t"), thumb="up")
    dashboard.serves(small, EndpointSpec(model="small", feedback=Feedback(path=str(log.folder))))
    said = ctl(dashboard, "serve", "learn", "chat", "--by", "kto")
    assert f"chat serves {small.record.ref}" in said and f"dpo.inputs.model={model.record.ref}" in said
    assert "dpo.loss.type=kto" in said and "reference.mismatched=true" in said


@pytest.mark.heavy
def test_what_cannot_be_learned_is_said(dashboard: Dashboard, model: Artifact, log: Log) -> None:
    assert "no endpoint is called 'chat'. None is running." in ctl(dashboard, "serve", "learn", "chat", code=3)
    dashboard.serves(model, EndpointSpec(model="mine"))
    said = ctl(dashboard, "serve", "learn", "chat", code=3)
    assert "keeps no feedback" in said and "endpoint.feedback.path" in said
    dashboard.serves(model, EndpointSpec(model="mine", feedback=Feedback(path=str(log.folder))))
    log.say("thumb", **asked("c"), answer=answer("t"), thumb="up")
    assert "--by kto" in ctl(dashboard, "serve", "learn", "chat", code=3)
    assert "Did you mean 'dpo'?" in ctl(dashboard, "serve", "learn", "chat", "--by", "dp", code=2)
