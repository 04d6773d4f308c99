"""Engines that are frozen or killed while they answer: what was asked goes on at another, as if nothing had been."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from serving.answers import Answers
from serving.asgi import Message
from serving.engine import engine_arguments, engine_environment
from serving.handover import Handover, continued
from serving.vllm_app import engine_app, open_engine

TOKENS = 200
TOGETHER = {"model": "chat", "prompt": "def function(", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
TOGETHER |= {"return_token_ids": True, "stream_options": {"include_usage": True}}
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0, "logprobs": 2},
    "two answers, whose numbers are drawn by a seed": {"n": 2, "seed": 5, "temperature": 1.0},
    "repeats cost": {"temperature": 0, "frequency_penalty": 0.5, "prompt": "import os\n"},
    "a stop text": {"temperature": 0, "stop": ["\x00nowhere"], "prompt": "Straße 文字"},
    "not streamed": {"temperature": 0, "stream": False, "stream_options": None, "prompt": "for name in"},
    "a grammar": {"temperature": 0, "structured_outputs": {"regex": "([ab]{3} ){60}"}},
}


class Request(msgspec.Struct):
    """What `continued` looks at of a request of vLLM's."""

    sampling_params: Any
    prompt_token_ids: list[int] | None
    prompt_embeds: Any = None
    mm_features: Any = None


def params(**given: Any) -> Any:
    plain = {"max_tokens": 10, "min_tokens": 4, "temperature": 0.0, "seed": None, "presence_penalty": 0.0,
             "frequency_penalty": 0.0, "structured_outputs": None, "bad_words": None, "repetition_detection": None,
             "thinking_token_budget": None, "prompt_logprobs": 2}  # fmt: skip
    return SimpleNamespace(**{**plain, **given})


def test_tokens_that_have_come_are_the_end_of_the_prompt() -> None:
    request, known = continued(Request(params(), [1, 2]), [7, 8, 9])
    assert (request.prompt_token_ids, known) == ([1, 2, 7, 8, 9], [])
    told = request.sampling_params
    assert (told.max_tokens, told.min_tokens, told.prompt_logprobs) == (7, 1, None)
    asked = Request(params(), [1, 2])
    assert continued(asked, []) == (asked, [])


@pytest.mark.parametrize(
    "given", [{"seed": 1, "temperature": 0.5}, {"presence_penalty": 1.0}, {"structured_outputs": 1}, {"bad_words": [1]}]
)
def test_what_depends_on_where_an_answer_began_begins_there(given: dict[str, Any]) -> None:
    request, known = continued(Request(params(**given), [1, 2]), [7, 8, 9])
    assert (request.prompt_token_ids, request.sampling_params.max_tokens, known) == ([1, 2], 10, [7, 8, 9])


def test_a_prompt_of_pictures_does_not_go_on() -> None:
    with pytest.raises(ValueError, match="more than text"):
        continued(Request(params(), [1, 2], mm_features=[object()]), [7])


class Engine:
    """An engine with vLLM's application, as a replica holds them; `other` computes what it cannot any more."""

    def __init__(self, model: Artifact, timeout_seconds: float) -> None:
        spec = EndpointSpec(model="tiny", kv_cache_gib=0.1)
        before = {child.pid for child in self.children()}
        self.engine, self.arguments = open_engine(model, "chat", engine_arguments(spec, model))
        (self.core,) = [child for child in self.children() if child.pid not in before]
        self.other: Engine | None = None
        self.lost = asyncio.Event()
        core = self.engine.engine_core
        self.handover = Handover(core, self.compute, timeout_seconds, lambda: None, lambda why: self.lost.set())

    @staticmethod
    def children() -> list[Any]:
        import multiprocessing

        return multiprocessing.active_children()

    async def open(self) -> None:
        self.answers = Answers(await engine_app(self.engine, self.arguments, lambda: None))

    async def compute(self, request: Any) -> Any:
        """As through Serve: what is given is what was, packed and unpacked."""
        import cloudpickle

        if self.other is not None:
            async for output in self.other.handover.compute(cloudpickle.loads(cloudpickle.dumps(request))):
                yield cloudpickle.loads(cloudpickle.dumps(output))

    def ask(self, asked: dict[str, Any]) -> Asked:
        return Asked(self.answers, TOGETHER | asked)


class Asked:
    """A request, and what comes of it."""

    def __init__(self, app: Answers, asked: dict[str, Any]) -> None:
        self.body, self.messages, self.begun = json.dumps(asked).encode(), 0, asyncio.Event()
        self.answer, self.given = b"", False
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
                 "path": "/v1/completions", "raw_path": b"/v1/completions", "query_string": b"", "root_path": "",
                 "headers": [(b"content-type", b"application/json")], "client": None, "server": None}  # fmt: skip
        self.task = asyncio.create_task(app(scope, self.receive, self.send))

    async def receive(self) -> Message:
        if self.given:
            await asyncio.Event().wait()
        self.given = True
        return {"type": "http.request", "body": self.body, "more_body": False}

    async def send(self, message: Message) -> None:
        self.messages += 1
        self.answer += message.get("body", b"")
        if self.messages == 4:
            self.begun.set()

    def told(self) -> list[Any]:
        """What was sent, by events; without what every request has of its own."""
        lines = [line for line in self.answer.decode().split("\n") if line and line != "data: [DONE]"]
        found = [json.loads(line.removeprefix("data: ")) for line in lines]
        return [{name: value for name, value in each.items() if name not in ("id", "created")} for each in found]


def joined(told: list[Any]) -> Any:
    """All of an answer: its texts, tokens, log probabilities, ends and usage, however they were cut into events."""
    found: dict[Any, Any] = {"usage": [each["usage"] for each in told if each.get("usage")]}
    for choice in [choice for each in told for choice in each["choices"]]:
        parts = found.setdefault(choice["index"], {"text": "", "tokens": [], "logprobs": [], "ends": []})
        parts["text"] += choice["text"]
        parts["tokens"] += choice.get("token_ids") or []
        parts["logprobs"] += (choice.get("logprobs") or {}).get("tokens", [])
        parts["ends"] += [choice["finish_reason"]] if choice["finish_reason"] else []
    return found


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in engine_environment(EndpointSpec(model="tiny")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield


@pytest.mark.heavy
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_answers_go_on_at_another_engine_and_end_where_there_is_none(model: Artifact, environment: None) -> None:
    async def run() -> None:
        first, second = Engine(model, 60), Engine(model, 60)
        first.other = second
        for engine in (first, second):
            await engine.open()
        expected = {}
        for name, asked in ASKED.items():
            alone = second.ask(asked)
            await alone.task
            expected[name] = joined(alone.told())
        all_asked = {name: first.ask(asked) for name, asked in ASKED.items()}
        await asyncio.wait_for(asyncio.gather(*(a.begun.wait() for n, a in all_asked.items() if "not" not in n)), 60)
        os.kill(first.core.pid, signal.SIGSTOP)
        neighbour = second.ask(ASKED["greedy"])
        assert not any(asked.task.done() for asked in all_asked.values())
        left = first.ask({"temperature": 0})  # its client goes while the engine is lost
        await asyncio.sleep(0)
        going = asyncio.create_task(first.handover.go_on())
        left.task.cancel()
        await asyncio.gather(neighbour.task, *(asked.task for asked in all_asked.values()))
        await going
        for name, asked in all_asked.items():
            assert joined(asked.told()) == expected[name], name
            assert asked.task.done()
        assert joined(neighbour.told()) == expected["greedy"]
        os.kill(first.core.pid, signal.SIGKILL)

        last = second.ask(ASKED["greedy"])
        await asyncio.wait_for(last.begun.wait(), 60)
        second.handover._timeout_seconds = 0.5
        os.kill(second.core.pid, signal.SIGKILL)
        await asyncio.wait_for(second.lost.wait(), 60)
        await second.handover.go_on()
        await last.task
        assert last.told()[-1]["error"]["code"] == "engine_lost"
        assert last.answer.endswith(b"data: [DONE]\n\n")

    asyncio.run(run())
