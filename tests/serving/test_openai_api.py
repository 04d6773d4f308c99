"""The OpenAI API over transformers, without a server between: what it says is what the model says."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, MambaConfig

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.decoding import Turns, decode
from serving.in_process import InProcess
from serving.openai_api import openai_app
from serving.remote import Remote
from serving.talk import Sampling
from tests.cluster.local_cluster import free_port
from tests.tuning.made_adapters import by_method
from tests.tuning.tiny_sft import make_inputs, write_sources

ASKED: list[Any] = [{"role": "user", "content": "def add(x):"}]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model tuned by P-Tuning v2."""
    store = Store(tmp_path_factory.mktemp("store"))
    return by_method(make_inputs(store, write_sources(tmp_path_factory.mktemp("sources"))), store, "prefix")[0]


@pytest.fixture(scope="module")
def talker(prefix: Artifact) -> InProcess:
    return InProcess(prefix)


@pytest.fixture(scope="module")
def client(talker: InProcess) -> Iterator[openai.OpenAI]:
    with TestClient(openai_app("tuned", talker)) as http:
        yield openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=http, max_retries=0)


def test_a_soft_prompt_answers_by_the_api(client: openai.OpenAI, talker: InProcess) -> None:
    (model,) = client.models.list()
    assert (model.id, model.model_extra) == ("tuned", {"max_model_len": 256 - 8})
    expected = "".join(talker.answer(ASKED, Sampling(max_tokens=8)))
    options: dict[str, Any] = {"model": "tuned", "messages": ASKED, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**options)
    assert whole.choices[0].message.content == expected
    prompt = talker.count(ASKED, 0)
    assert whole.usage and whole.usage.prompt_tokens == prompt
    assert whole.choices[0].finish_reason == ("length" if whole.usage.completion_tokens == 8 else "stop")
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert chunks[-1].usage == whole.usage and chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "def "}, {"type": "text", "text": "add(x):"}]}]
    assert client.chat.completions.create(**options | {"messages": parts}).choices[0].message.content == expected


@pytest.mark.parametrize("field", [{"stream_options": "x"}, {"stream_options": [1]}, {"seed": 10**30}, {"seed": []}])
def test_a_field_of_another_kind_is_the_clients_mistake(client: openai.OpenAI, field: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        client.post(
            "/chat/completions", cast_to=object, body={"model": "tuned", "messages": ASKED, "max_tokens": 1} | field
        )


def test_completions_and_seeds(client: openai.OpenAI, talker: InProcess) -> None:
    expected = "".join(talker.complete("def add", Sampling(max_tokens=8)))
    options: dict[str, Any] = {"model": "tuned", "prompt": "def add", "max_tokens": 8}
    assert client.completions.create(**options, temperature=0).choices[0].text == expected
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**options, temperature=0, stream=True)]
    assert "".join(pieces) == expected
    drawn = [client.completions.create(**options, seed=seed).choices[0].text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.fixture(scope="module")
def remote(talker: InProcess) -> Iterator[Remote]:
    """The endpoint, behind a server."""
    port = free_port()
    config = uvicorn.Config(openai_app("tuned", talker), port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        yield Remote(f"http://127.0.0.1:{port}")
    finally:
        server.should_exit = True
        thread.join()


def test_who_goes_in_the_middle_of_an_answer_keeps_nobody_waiting(talker: InProcess, remote: Remote) -> None:
    begun: Generator[str] = remote.answer(  # type: ignore[assignment]
        ASKED, Sampling(max_tokens=200, temperature=1.0)
    )
    assert next(begun)
    begun.close()
    asked = Sampling(max_tokens=8)
    assert "".join(remote.answer(ASKED, asked)) == "".join(talker.answer(ASKED, asked))


@pytest.mark.heavy
def test_more_requests_at_once_than_there_are_threads_are_all_answered(talker: InProcess, remote: Remote) -> None:
    """And each as if it were alone: what is drawn for one is not drawn from another's seed."""
    asked = [Sampling(max_tokens=6, temperature=0.5 * (seed % 2), seed=seed) for seed in range(48)]
    alone = ["".join(talker.answer(ASKED, sampling)) for sampling in asked]
    with ThreadPoolExecutor(len(asked)) as threads:
        found = list(threads.map(lambda sampling: "".join(remote.answer(ASKED, sampling)), asked))
    assert found == alone and len(set(alone)) > 10


def test_answers_go_on_beside_each_other(talker: InProcess) -> None:
    """A short one need not wait for a long one; a piece of either does not change the other."""
    asked = [Sampling(max_tokens=most, temperature=1.0, seed=5) for most in (60, 20)]
    alone = ["".join(talker.answer(ASKED, sampling)) for sampling in asked]
    long, short = (talker.answer(ASKED, sampling) for sampling in asked)
    begun = next(long)
    assert "".join(short) == alone[1]
    assert begun + "".join(long) == alone[0]


def test_whoever_has_waited_longest_is_next() -> None:
    turns, order = Turns(), list[int]()

    def wait(number: int) -> None:
        with turns:
            order.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(9)]
    with turns:
        for number, thread in enumerate(threads):
            thread.start()
            while turns.asked < number + 2:  # it stands in the line
                thread.join(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(9))


def test_a_family_without_a_cache_of_keys_answers() -> None:
    """And a penalty on what was said already is the model's own."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
    tokens = torch.arange(5, 14)[None]
    for config in (
        MambaConfig(**sizes, state_size=4),
        LlamaConfig(**sizes, intermediate_size=32, num_attention_heads=2),
    ):
        model = AutoModelForCausalLM.from_config(config).eval()
        model.generation_config = GenerationConfig(repetition_penalty=1.3, pad_token_id=0)
        expected = model.generate(tokens, max_new_tokens=12, do_sample=False)[0, tokens.size(1) :].tolist()
        assert list(decode(model, tokens, 12, 0.0, 0, Turns())) == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "other"}, "there is no model 'other' here, only 'tuned'"),
        ({"top_p": 0.5}, "top_p: this endpoint, over transformers, does not know it"),
        ({"n": 2}, "n: this endpoint"),
        ({"temperature": -1}, "temperature is not negative"),
        ({"temperature": "hot"}, "could not convert"),
        ({"messages": []}, "messages: missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a text as its content"),
        ({"messages": [{"role": "user", "content": "x " * 600}]}, "does not fit into the model's context of 248"),
    ],
)
def test_what_cannot_be_met_is_refused(client: openai.OpenAI, changes: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"model": "tuned", "messages": ASKED} | changes
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(**options)
    if "messages" in changes:
        return
    with pytest.raises(openai.BadRequestError, match=words):
        client.chat.completions.create(**options, stream=True)


def test_tokens_are_counted(talker: InProcess) -> None:
    messages = [{"role": "user", "content": "def add(x):"}]
    with TestClient(openai_app("soft", talker)) as http:
        for asked, given in (({"messages": messages}, messages), ({"prompt": "def f"}, "def f")):
            told = http.post("/tokenize", json=asked).json()
            assert told["count"] == len(told["tokens"]) == talker.count(given, 0)  # type: ignore[arg-type]
        assert http.post("/tokenize", json={"prompt": 3}).status_code == 400
