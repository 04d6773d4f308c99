"""An endpoint that is replaced, asks for keys, and goes. After the other files that share it: none is left then."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from safetensors.torch import load_file, save_file

from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from serving.in_process import InProcess
from serving.remote import Remote
from serving.talk import Sampling
from tests.evaluation.tiny_run import commit_model
from tests.serving.conftest import Served
from tests.serving.pooling import models
from tests.tuning.made_adapters import by_method
from tests.tuning.tiny_sft import make_inputs, write_sources

pytestmark = pytest.mark.heavy

PROMPTS = ("def function(", "import os\n", "Straße 文字", "for name in")
TOKENS = 24


def _may_go(served: Served) -> str:
    """What garbage collection would remove."""
    return served.cluster.ctl("artifacts", "gc", "--store", served.model.store_url)


def test_the_model_of_an_endpoint_is_in_use(served: Served) -> None:
    assert served.model.record.ref not in _may_go(served)  # it is old, and under no alias
    assert len(served.model.store.root.names(".uses")) >= 2  # of its entrance and of its replica


class Load:
    """Asks again and again, as clients do, what works and what this model cannot; keeps what should have worked."""

    def __init__(self, client: openai.OpenAI) -> None:
        self.client, self.answered = client, 0
        self.failed: list[str] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            try:
                self.client.completions.create(model="chat", prompt="def f(", max_tokens=1)
                self.answered += 1
                with suppress(openai.BadRequestError):  # it chats with no one, which its log says, too
                    self.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "Hi"}])
            except openai.OpenAIError as error:
                self.failed.append(repr(error))

    def __enter__(self) -> Load:
        self.thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.stopped.set()
        self.thread.join()


def test_a_replacement_that_fails_leaves_the_one_before(served: Served, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(served.model.local(), folder)
    (folder / "artifact.json").unlink()
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    store = Store(tmp_path / "store")
    commit_model(store, folder, PretrainSpec(seed=9), {})
    patient = openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0, timeout=60)
    arguments = ("serve", "up", "tiny", "--name", "chat", "--port", str(served.port))
    with Load(patient) as load:
        said = served.cluster.ctl(*arguments, "--store", store.root.url, code=5, timeout=840)
    assert "norm.weight" in said
    assert f"{served.model.record.ref}, which was served before, is kept" in said
    assert "Traceback" not in said and "\x1b" not in said
    assert load.answered > 10 and not load.failed
    (endpoint,) = json.loads(served.cluster.ctl("serve", "list", "--json"))
    assert endpoint["model"] == served.model.record.ref

    labels = tmp_path / "labels"
    shutil.copytree(served.model.local(), labels)
    (labels / "artifact.json").unlink()
    config = json.loads((labels / "config.json").read_text())
    (labels / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForTokenClassification"]}))
    commit_model(Store(tmp_path / "stores"), labels, PretrainSpec(seed=8), {})
    said = served.cluster.ctl(*arguments, "--store", str(tmp_path / "stores"), code=3)
    assert "neither writes nor scores a text: it is a LlamaForTokenClassification" in said
    assert patient.completions.create(model="chat", prompt="def f(", max_tokens=1).choices


def test_what_does_something_else_does_not_replace_it(served: Served) -> None:
    """A reward model, whose name by itself would be another; and nothing of it is started."""
    judge = models.reward(Store(served.model.store_url))  # of the endpoint's own store, where `roll` looks
    where = ("--port", str(served.port), "--store", served.model.store_url)
    for command in (("up", judge.record.ref, "--name", "chat", *where), ("roll", "chat", judge.record.ref),
                    ("canary", "chat", judge.record.ref)):  # fmt: skip
        said = served.cluster.ctl("serve", *command, code=3)
        assert f"endpoint 'chat' writes, and {judge.record.ref} does not: it scores texts" in said
        assert len(said.strip().splitlines()) <= 2
    (endpoint,) = json.loads(served.cluster.ctl("serve", "list", "--json"))
    assert (endpoint["model"], endpoint["status"]) == (served.model.record.ref, "RUNNING")


@pytest.fixture(scope="module")
def key(served: Served) -> str:
    return served.cluster.ctl("serve", "keys", "create", "tests", "--endpoint", "chat").splitlines()[0]


def test_a_replacement_answers_before_the_one_before_goes(served: Served, tmp_path: Path, key: str) -> None:
    """Also where it asks for keys, and the one before did not."""
    folder = tmp_path / "other"
    shutil.copytree(served.model.local(), folder)
    (folder / "artifact.json").unlink()
    store = Store(tmp_path / "store")
    other = commit_model(store, folder, PretrainSpec(seed=10), {})
    patient = openai.OpenAI(base_url=served.base_url, api_key=key, max_retries=0, timeout=60)
    arguments = ("serve", "up", "tiny", "--name", "chat", "--port", str(served.port))
    arguments = (*arguments, "--set", "endpoint.access.keys=true", "--set", "endpoint.access.output_price=1000000")
    with Load(patient) as load:
        assert "is ready" in served.cluster.ctl(*arguments, "--store", store.root.url, timeout=840)
    assert load.answered > 10 and not load.failed
    (endpoint,) = json.loads(served.cluster.ctl("serve", "list", "--json"))
    assert endpoint["model"] == other.record.ref


def test_an_endpoint_that_asks_for_keys(served: Served, key: str, tmp_path: Path) -> None:
    """vLLM tells the usage of every stream, whether its client asked or not; a revoked key counts no more at once."""

    def usage() -> tuple[int, ...]:
        (row,) = json.loads(served.cluster.ctl("serve", "keys", "usage", "tests", "--json"))
        assert row["cost"] == row["completion_tokens"]
        return row["requests"], row["prompt_tokens"], row["completion_tokens"]

    assert requests.get(f"{served.base_url}/models", timeout=60).status_code == 401
    assert requests.get(f"{served.base_url.removesuffix('/v1')}/health", timeout=60).status_code == 200
    client = openai.OpenAI(base_url=served.base_url, api_key=key, max_retries=0)
    before = usage()
    ask: dict[str, Any] = {"model": "chat", "prompt": PROMPTS, "seed": 1, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(**ask, max_tokens=TOKENS, n=2).usage
    after = usage()
    assert whole and whole.completion_tokens == 8 * TOKENS
    told = (1, whole.prompt_tokens, whole.completion_tokens)
    assert after == tuple(a + b for a, b in zip(before, told, strict=True))
    chunks = list(client.completions.create(**ask, max_tokens=TOKENS, n=2, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert usage() == tuple(a + b for a, b in zip(after, told, strict=True))
    asked = client.completions.create(**ask, max_tokens=2, stream=True, stream_options={"include_usage": True})
    assert [chunk.usage.completion_tokens for chunk in asked if chunk.usage] == [8]

    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    generate = ("generate", "def f(", "--max-tokens", "4", "--endpoint", served.base_url)
    assert served.cluster.ctl(*generate, OPENAI_API_KEY=key) == served.cluster.ctl(*generate, "--key-file", str(file))
    assert "Set OPENAI_API_KEY, or give --key-file" in served.cluster.ctl(*generate, code=4)
    ask_serve = (
        "from cluster.control.dashboard import dashboard_url, request\n"
        "print(request('GET', dashboard_url(), '/api/serve/applications/'))"
    )
    account = subprocess.run(
        [sys.executable, "-c", ask_serve], env=served.cluster.environment(), capture_output=True, text=True, check=True
    ).stdout
    assert "TRUNKLINE_ENDPOINT" in account and key[-43:] not in account
    assert "is revoked" in served.cluster.ctl("serve", "keys", "revoke", "tests")
    with pytest.raises(openai.AuthenticationError, match="revoked"):
        client.models.list()


def test_down_frees_the_port(served: Served) -> None:
    assert "no endpoint is called 'chta'" in served.cluster.ctl("serve", "down", "chta", code=3)
    assert served.cluster.ctl("serve", "down", "chat") == "chat is down\n"
    assert json.loads(served.cluster.ctl("serve", "list", "--json")) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{served.base_url}/models", timeout=5)


def test_the_model_of_an_endpoint_that_is_down_is_in_use_no_more(served: Served) -> None:
    deadline = time.monotonic() + 120
    while served.model.record.ref not in _may_go(served):
        assert time.monotonic() < deadline
        time.sleep(1)  # the last processes of the endpoint end on their own


def test_a_soft_prompt_is_served_over_transformers(served: Served, tmp_path: Path) -> None:
    """Beside the other endpoint, below its own name; vLLM knows no such models."""
    store = Store(tmp_path / "store")
    prefix, _ = by_method(make_inputs(store, write_sources(tmp_path)), store, "prefix")
    options = ("--port", str(served.port), "--name", "soft", "--store", store.root.url)
    said = served.cluster.ctl("serve", "up", "sft/prefix", *options, timeout=300)
    assert "is an adapter: transformers serves it, its answers in turn" in said and "is ready" in said
    try:
        listed = {entry["name"]: entry for entry in json.loads(served.cluster.ctl("serve", "list", "--json"))}
        assert listed["soft"]["model"] == prefix.record.ref and listed["soft"]["replicas"] == 1
        talker = Remote(listed["soft"]["base_url"])
        asked = [{"role": "user", "content": "def add(x):"}]
        assert talker.context_tokens == 256 - 8
        there = "".join(talker.answer(asked, Sampling(max_tokens=8)))
        assert there == "".join(InProcess(prefix).answer(asked, Sampling(max_tokens=8)))
        assert talker.chats
    finally:
        served.cluster.ctl("serve", "down", "soft")
