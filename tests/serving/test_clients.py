"""Other people's clients at an endpoint: what they get is what the model says.

They are none of the project's packages. TRUNKLINE_CLIENTS names a Python that has them:
`python -m venv FOLDER && FOLDER/bin/pip install litellm langchain-openai llm schemathesis`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.core.specs.batches import Batches
from cluster.core.specs.endpoint import EndpointSpec, Limits
from cluster.core.specs.feedback import Feedback
from cluster.core.specs.plugins import Plugins
from cluster.core.storage.store import Store
from serving.gateway import gateway
from serving.in_process import InProcess
from serving.openai_api import openai_app
from serving.over_transformers import opened
from serving.plugins.running import open_plugins
from serving.talk import Sampling
from tests.serving.conftest import Served
from tests.serving.plugins.test_clients import served as scripted
from tests.serving.plugins.test_loop import Script, calls
from tests.serving.pooling import models
from tests.serving.running import running, running_made
from tests.tuning.made_adapters import by_method
from tests.tuning.tiny_sft import make_inputs, write_sources

CLIENTS = os.environ.get("TRUNKLINE_CLIENTS", "")
ASKED = [{"role": "user", "content": "def add(x):"}]
SECONDS = 600
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not CLIENTS, reason="TRUNKLINE_CLIENTS names no Python with the clients"),
]


def by(package: str, script: str, *given: str, environment: dict[str, str] | None = None) -> Any:
    """What a script of a client prints last, as JSON; skips where the client is not there."""
    if subprocess.run([CLIENTS, "-c", f"import {package}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{package} is not installed in TRUNKLINE_CLIENTS")
    done = subprocess.run(
        [CLIENTS, "-c", script, *given], capture_output=True, text=True, timeout=SECONDS, check=False,
        env={**os.environ, "OPENAI_API_KEY": "none", **(environment or {})},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    store = Store(tmp_path_factory.mktemp("store"))
    return InProcess(by_method(make_inputs(store, write_sources(tmp_path_factory.mktemp("s"))), store, "prefix")[0])


@pytest.fixture(scope="module")
def said(talker: InProcess) -> str:
    return "".join(talker.answer(ASKED, Sampling(max_tokens=8)))


@pytest.fixture(scope="module")
def url(talker: InProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint with all that it may have, over transformers."""
    folder = tmp_path_factory.mktemp("kept")
    spec = EndpointSpec(
        model="m", batches=Batches(path=str(folder / "batches")), feedback=Feedback(path=str(folder / "said")),
        plugins=Plugins(allowed=("calculator",)),
    )  # fmt: skip

    async def make() -> Any:
        plugins = await open_plugins(spec.plugins, "")
        app = openai_app("chat", talker)
        return await gateway(app, "chat", talker.name, spec, talker.context_tokens, plugins=plugins)

    async def end(app: Any) -> None:
        await app.batches.close()
        await app.plugins.close()

    with running_made(make, end) as found:
        yield found


LITELLM = """
import json, sys, litellm
given = dict(model="openai/chat", api_base=sys.argv[1] + "/v1", api_key="none", messages=json.loads(sys.argv[2]))
given |= dict(max_tokens=8, temperature=0, **json.loads(sys.argv[3]))
whole = litellm.completion(**given).choices[0].message.content
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**given, stream=True))
print(json.dumps([whole, streamed]))
"""
LANGCHAIN = """
import json, sys
from langchain_openai import ChatOpenAI, OpenAI
given = dict(model="chat", base_url=sys.argv[1] + "/v1", max_tokens=8, temperature=0)
chat = ChatOpenAI(**given, **json.loads(sys.argv[3]))
content = json.loads(sys.argv[2])[0]["content"]
print(json.dumps([chat.invoke(content).content, "".join(chunk.content for chunk in chat.stream(content))]))
"""
LLM = """
import json, os, pathlib, subprocess, sys
place = pathlib.Path(os.environ["LLM_USER_PATH"])
place.mkdir(exist_ok=True)
model = dict(model_id="ours", model_name="chat", api_base=sys.argv[1] + "/v1")
(place / "extra-openai-models.yaml").write_text(json.dumps([model]))
content = json.loads(sys.argv[2])[0]["content"]
options = ["-o", "max_tokens", "8", "-o", "temperature", "0"]
said = []
for more in (["--no-stream"], []):
    command = [sys.executable, "-m", "llm", "-m", "ours", *options, *more, content]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said.append(done.stdout.removesuffix("\\n"))
print(json.dumps(said))
"""


@pytest.mark.parametrize(("package", "script"), [("litellm", LITELLM), ("langchain_openai", LANGCHAIN), ("llm", LLM)])
def test_a_client_gets_what_the_model_says(url: str, said: str, package: str, script: str, tmp_path: Path) -> None:
    place = {"LLM_USER_PATH": str(tmp_path / "llm")}
    assert by(package, script, url, json.dumps(ASKED), "{}", environment=place) == [said, said]


@pytest.mark.parametrize(("package", "script"), [("litellm", LITELLM), ("langchain_openai", LANGCHAIN)])
def test_a_client_switches_plugins_on(package: str, script: str) -> None:
    turns = [calls("calculator", expression="3*4"), "It is 12."]
    asked = Script(*turns, *turns)
    body = json.dumps({"extra_body": {"plugins": ["calculator"]}})
    with scripted(asked) as address:
        assert by(package, script, address, json.dumps(ASKED), body) == ["It is 12.", "It is 12."]
    assert all(len(each["tools"]) == 1 for each in asked.asked)


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of a reward model `judge` and of an encoder `vectors`."""
    store = Store(tmp_path_factory.mktemp("store"))
    with ExitStack() as stack:
        found = {}
        for name, artifact in (("judge", models.reward(store)), ("vectors", models.encoder(store))):
            app = opened(artifact).app(name, Limits())
            made = gateway(app, name, artifact.record.ref, EndpointSpec(model="m"), models.POSITIONS)
            found[name] = stack.enter_context(running(asyncio.run(made)))
        yield found


LITELLM_VECTORS = """
import json, sys, litellm
given = dict(model="openai/vectors", api_base=sys.argv[1] + "/v1", api_key="none", input=["ask", "Be brief"])
print(json.dumps([each["embedding"] for each in litellm.embedding(**given).data]))
"""
LANGCHAIN_VECTORS = """
import json, sys
from langchain_openai import OpenAIEmbeddings
made = OpenAIEmbeddings(model="vectors", base_url=sys.argv[1] + "/v1", check_embedding_ctx_length=False)
print(json.dumps(made.embed_documents(["ask", "Be brief"])))
"""
LITELLM_RANKS = """
import json, sys, litellm
given = dict(model="hosted_vllm/judge", api_base=sys.argv[1], api_key="none", query="ask", documents=["yes", " no"])
print(json.dumps([[each["index"], each["relevance_score"]] for each in litellm.rerank(**given).results]))
"""


@pytest.mark.parametrize(("package", "script"), [("litellm", LITELLM_VECTORS), ("langchain_openai", LANGCHAIN_VECTORS)])
def test_a_client_gets_vectors(pooling: dict[str, str], package: str, script: str) -> None:
    asked = {"input": ["ask", "Be brief"]}
    told = httpx.post(f"{pooling['vectors']}/v1/embeddings", json=asked, timeout=SECONDS).json()["data"]
    for vector, own in zip(by(package, script, pooling["vectors"]), told, strict=True):
        assert vector == pytest.approx(own["embedding"], abs=1e-6)


def test_a_client_gets_ranks(pooling: dict[str, str]) -> None:
    asked = {"query": "ask", "documents": ["yes", " no"]}
    told = httpx.post(f"{pooling['judge']}/v1/rerank", json=asked, timeout=SECONDS).json()["results"]
    ranks = [[each["index"], pytest.approx(each["relevance_score"])] for each in told]
    assert by("litellm", LITELLM_RANKS, pooling["judge"]) == ranks


def schemathesis(address: str, folder: Path, examples: int) -> None:
    """Have it ask whatever the document allows, and more. Nothing may be the server's fault."""
    program = str(Path(CLIENTS).with_name("schemathesis"))
    if not os.path.exists(program):
        pytest.skip("schemathesis is not installed in TRUNKLINE_CLIENTS")
    options = ["--checks", "not_a_server_error", "--max-examples", str(examples), "--seed", "1", "--no-color"]
    options += ["--request-timeout", "60", "--generation-database", "none"]
    command = [program, "run", f"{address}/openapi.json", "--url", address, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=3600, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_nothing_that_is_asked_is_the_servers_fault(url: str, tmp_path: Path) -> None:
    schemathesis(url, tmp_path, 20)


@pytest.mark.parametrize("name", ["judge", "vectors"])
def test_nothing_that_a_pool_is_asked_is_the_servers_fault(pooling: dict[str, str], name: str, tmp_path: Path) -> None:
    schemathesis(pooling[name], tmp_path, 20)


@pytest.mark.heavy
@pytest.mark.timeout(3700)
def test_nothing_that_vllm_is_asked_is_the_servers_fault(served: Served, tmp_path: Path) -> None:
    schemathesis(served.base_url.removesuffix("/v1"), tmp_path, 20)
