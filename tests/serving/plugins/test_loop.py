"""Plug-ins as a client switches them on: a small application writes what a model would, the plug-ins are real."""

from __future__ import annotations

import asyncio
import io
import json
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cluster.core.errors import NotReadyError, SpecError
from cluster.core.sandbox.sandbox import Limits, require
from cluster.core.specs.access import Access
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.plugins import Plugins
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec
from serving.gateway import gateway
from serving.keys.administration import Administration
from serving.plugins.running import open_plugins
from tests.made import make
from tests.serving.keys.small_app import CONTEXT, REF, make_key
from tests.serving.running import running

QUESTION: list[Any] = [{"role": "user", "content": "What is 3 times 4?"}]


def calls(name: str, **arguments: Any) -> dict[str, Any]:
    """What a model of a template that has calls says."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"content": None, "tool_calls": [{"id": f"call_{name}", "type": "function", "function": function}]}


def writes(name: str, **arguments: Any) -> str:
    """The same of a model that has learned to write it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


class Script:
    """Says one thing after another, whatever is asked; in a stream letter by letter. `asked` are the bodies."""

    def __init__(self, *turns: Any) -> None:
        self.turns, self.asked = list(turns), list[dict[str, Any]]()
        self.app = Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        turn = self.turns.pop(0)
        if isinstance(turn, int):
            return JSONResponse({"error": {"message": "no", "type": "server_error", "param": None, "code": None}}, turn)
        said = turn if isinstance(turn, dict) else {"content": turn}
        reason = "tool_calls" if said.get("tool_calls") else "stop"
        of = {"id": f"chatcmpl-{len(self.asked)}", "created": 1, "model": "chat"}
        prompt = 10 * len(self.asked)
        usage = {"prompt_tokens": prompt, "completion_tokens": 2, "total_tokens": prompt + 2}
        if body.get("stream"):
            assert body["stream_options"]["include_usage"]
            return StreamingResponse(self._stream(of, said, reason, usage), media_type="text/event-stream")
        choice = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": reason, "logprobs": None}
        return JSONResponse({**of, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _stream(self, of: Any, said: Any, reason: str, usage: Any) -> AsyncIterator[str]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": letter} for letter in said["content"] or ""]
        for number, call in enumerate(said.get("tool_calls") or ()):
            text = call["function"]["arguments"]
            head = {"name": call["function"]["name"], "arguments": ""}
            deltas.append({"tool_calls": [{"index": number, "id": call["id"], "type": "function", "function": head}]})
            deltas += [{"tool_calls": [{"index": number, "function": {"arguments": letter}}]} for letter in text]
        for delta in [*deltas, None]:
            choice = {"index": 0, "delta": delta or {}, "finish_reason": None if delta else reason}
            chunk = {**of, "object": "chat.completion.chunk", "choices": [choice], "usage": usage}
            yield f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n"
        yield f"data: {json.dumps({**of, 'object': 'chat.completion.chunk', 'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


@asynccontextmanager
async def endpoint(
    script: Script,
    spec: Plugins,
    *,
    natively: bool = False,
    form: str = "",
    store: str = "",
    database: str = "",
    key: str = "none",
) -> AsyncIterator[openai.AsyncOpenAI]:
    spec.check()
    plugins = await open_plugins(spec, store)
    whole = EndpointSpec(model="m", plugins=spec, access=Access(keys=bool(database), database=database))
    served: Any = await gateway(
        script.app, "chat", REF, whole, CONTEXT, plugins=plugins, calls=form or ("native" if natively else "text")
    )
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=served, raise_app_exceptions=False))
    try:
        yield openai.AsyncOpenAI(api_key=key, base_url="http://endpoint/v1", http_client=http, max_retries=0)
    finally:
        await served.plugins.close()
        if served.guard:
            await served.guard.close()


async def ask(client: openai.AsyncOpenAI, *names: str, **more: Any) -> Any:
    body: dict[str, Any] = {"model": "chat", "messages": QUESTION, **more}
    return await client.chat.completions.create(**body, extra_body={"plugins": list(names)})


async def streamed(client: openai.AsyncOpenAI, *names: str, **more: Any) -> tuple[str, list[dict[str, Any]], list[Any]]:
    """The text, what was told of plug-ins, and all chunks."""
    chunks = [chunk async for chunk in await ask(client, *names, stream=True, **more)]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return text, [c.model_extra["plugin"] for c in chunks if c.model_extra.get("plugin")], chunks


CALCULATOR = Plugins(allowed=("calculator", "solver"))


@pytest.mark.parametrize("natively", [True, False])
def test_a_plugin_runs_and_the_model_goes_on(natively: bool) -> None:
    before, written = "Let me see. ", writes("calculator", expression="3*4")
    said = calls("calculator", expression="3*4") | {"content": before} if natively else f"{before}{written}"

    async def work() -> None:
        script = Script(said, "It is 12.", said, "It is 12.")
        async with endpoint(script, CALCULATOR, natively=natively) as client:
            listed = await client.get("/plugins", cast_to=object)
            assert [each["id"] for each in listed["data"]] == ["calculator", "solver"]  # type: ignore[index]
            whole = await ask(client, "calculator")
            assert whole.choices[0].message.content == f"{before}It is 12."
            assert whole.choices[0].finish_reason == "stop" and not whole.choices[0].message.tool_calls
            assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (30, 4), "of both turns"
            [told] = whole.model_extra["plugins"]
            assert (told["name"], told["state"], told["result"]) == ("calculator", "done", "12")
            assert json.loads(told["arguments"]) == {"expression": "3*4"}
            options = {"include_usage": True}
            text, plugins, chunks = await streamed(client, "calculator", stream_options=options)
            assert text == f"{before}It is 12."
            assert [each["state"] for each in plugins] == ["running", "done"] and plugins[1]["result"] == "12"
            assert {chunk.id for chunk in chunks} == {"chatcmpl-3"}, "one answer"
            assert chunks[-1].usage.completion_tokens == 4 and chunks[-2].choices[0].finish_reason == "stop"
            roles = [c.choices[0].delta.role for c in chunks if c.choices and c.choices[0].delta.role]
            assert roles == ["assistant"] and all(c.choices for c in chunks[:-1])
        first, second = script.asked[:2]
        assert "plugins" not in first and second["messages"][: len(first["messages"])] == first["messages"]
        if natively:
            assert [tool["function"]["name"] for tool in first["tools"]] == ["calculator"]
            assistant, result = second["messages"][1:]
            assert assistant["tool_calls"][0]["id"] == result["tool_call_id"] and result["content"] == "12"
        else:
            assert first["messages"][0]["role"] == "system" and '"calculator"' in first["messages"][0]["content"]
            assert '"solver"' not in first["messages"][0]["content"], "which is not switched on"
            assert second["messages"][-1] == {"role": "user", "content": "<tool_response>\n12\n</tool_response>"}

    asyncio.run(work())


def test_rounds_are_bounded_and_errors_are_told_the_model() -> None:
    async def work() -> None:
        wrong = [calls("calculator", expression="x"), calls("browser", query="x"), calls("calculator")]
        bad = calls("calculator")
        bad["tool_calls"][0]["function"]["arguments"] = "{"
        script = Script(*wrong, bad, "I give up.")
        async with endpoint(script, CALCULATOR, natively=True) as client:
            text, plugins, _ = await streamed(client, "calculator")
            assert text == "I give up."
            failed = [each["result"] for each in plugins if each["state"] == "failed"]
            assert len(failed) == 4 and all(each.startswith("error: ") for each in failed)
            assert "no tool 'browser'" in failed[1] and "'expression' is missing" in failed[2]
            assert [body.get("tool_choice") for body in script.asked] == [None] * 4 + ["none"]
        endless = Script(*[f"On. {writes('calculator', expression='1')}"] * 3)
        async with endpoint(endless, Plugins(allowed=("calculator",), rounds=2)) as client:
            whole = await ask(client, "calculator")
            assert whole.choices[0].message.content == "On. On. On. " and len(whole.model_extra["plugins"]) == 2

    asyncio.run(work())


def test_the_clients_own_functions_are_its_own() -> None:
    weather: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

    async def work() -> None:
        script = Script(*[calls("calculator", expression="1+1"), calls("weather", city="Oslo")] * 2)
        async with endpoint(script, CALCULATOR, natively=True) as client:
            whole = await ask(client, "calculator", tools=[weather])
            [call] = whole.choices[0].message.tool_calls
            assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Oslo"}')
            assert whole.choices[0].finish_reason == "tool_calls" and len(whole.model_extra["plugins"]) == 1
            _, plugins, chunks = await streamed(client, "calculator", tools=[weather])
            [call] = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
            assert call.function.name == "weather" and chunks[-1].choices[0].finish_reason == "tool_calls"
            assert {each["name"] for each in plugins} == {"calculator"}
        assert [tool["function"]["name"] for tool in script.asked[0]["tools"]] == ["weather", "calculator"]

    asyncio.run(work())


def test_text_that_only_looks_like_a_call_is_text() -> None:
    async def work() -> None:
        text = "a < b, <tool_ is no call, nor is <tool_call>{ here <too"
        script = Script(text, text)
        async with endpoint(script, CALCULATOR) as client:
            assert (await streamed(client, "calculator"))[0] == text
            assert (await ask(client, "calculator")).choices[0].message.content == text

    asyncio.run(work())


@pytest.mark.heavy
def test_a_tool_that_hangs_is_killed() -> None:
    """And the next call has another process."""
    hangs = "x^17+x^3*y^5+y^19=7;x^9*y+y^7*x=1;x*y*z+z^9=2"

    async def work() -> None:
        script = Script(calls("solver", equations=hangs), calls("calculator", expression="6*7"), "done")
        spec = Plugins(allowed=("solver", "calculator"), timeout_seconds=3)
        async with endpoint(script, spec, natively=True) as client:
            _, plugins, _ = await streamed(client, "solver", "calculator")
        results = [each["result"] for each in plugins if each["state"] != "running"]
        assert results == ["error: no result within 3 s", "42"]

    asyncio.run(work())


def test_python_runs_in_the_sandbox() -> None:
    try:
        require(Limits())
    except NotReadyError as error:
        pytest.skip(str(error))

    async def work() -> None:
        script = Script(calls("python", code="import os\nprint(6 * 7, os.getuid() != 0)"), "done")
        async with endpoint(script, Plugins(allowed=("python",)), natively=True) as client:
            _, plugins, _ = await streamed(client, "python")
        assert plugins[-1]["result"] == "42 True"

    asyncio.run(work())


def test_search_finds_passages_of_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    rows = [{"id": "cats", "text": "A cat purrs."}, {"id": "dogs", "text": "A dog barks."}]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    corpus = make(Store(tmp_path / "store"), CorpusSpec(), {}, {"train/part-0.parquet": table.getvalue()}, "c")

    async def work() -> None:
        script = Script(calls("Search", query="who purrs?"), "A cat.")
        spec = Plugins(allowed=("search",), corpus=corpus.record.ref)
        async with endpoint(script, spec, natively=True, store=corpus.store_url) as client:
            _, plugins, _ = await streamed(client, "search")
        assert plugins[-1]["result"] == "1. cats: A cat purrs."

    asyncio.run(work())
    assert [path.name for path in (tmp_path / "cache" / "search").iterdir()] == [f"{corpus.fingerprint}.sqlite"]


def png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = (1).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_a_picture_goes_to_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURES_KEY", "secret")
    picture, asked = b64encode(png()).decode(), []

    async def draws(request: Request) -> Response:
        asked.append((request.headers["authorization"], await request.json()))
        if asked[-1][1]["prompt"] == "nothing":
            return JSONResponse({"error": {"message": "that is no picture"}}, 400)
        return JSONResponse({"created": 1, "data": [{"b64_json": picture}]})

    async def work(url: str) -> None:
        spec = Plugins(allowed=("image",), image_url=f"{url}/v1", image_model="draws", image_key="$PICTURES_KEY")
        script = Script(calls("image", prompt="a red dot"), calls("image", prompt="nothing"), "Here it is.")
        async with endpoint(script, spec, natively=True) as client:
            whole = await ask(client, "image")
        good, bad = whole.model_extra["plugins"]
        assert good["image"] == {"b64_json": picture} and picture not in json.dumps(script.asked)
        assert bad["result"] == "error: the image endpoint answers 400: that is no picture" and "image" not in bad

    app = Starlette(routes=[Route("/v1/images/generations", draws, methods=["POST"])])
    with running(app) as url:
        asyncio.run(work(url))
    assert asked[0] == ("Bearer secret", {"prompt": "a red dot", "n": 1, "model": "draws"})


def test_a_picture_is_not_sought_where_its_endpoint_points_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key would go along, and what answers may be within: redirects are not followed, URLs not opened."""
    monkeypatch.setenv("PICTURES_KEY", "secret")
    inner = []

    async def points(request: Request) -> Response:
        if (await request.json())["prompt"] == "there":
            return Response(status_code=307, headers={"location": "/inner"})
        return JSONResponse({"data": [{"url": str(request.url.replace(path="/inner"))}]})

    async def within(request: Request) -> Response:
        inner.append(request.headers)
        return JSONResponse({"data": [{"b64_json": "c2VjcmV0"}]})

    async def work(url: str) -> None:
        spec = Plugins(allowed=("image",), image_url=f"{url}/v1", image_key="$PICTURES_KEY")
        script = Script(calls("image", prompt="there"), calls("image", prompt="by its URL"), "None.")
        async with endpoint(script, spec, natively=True) as client:
            whole = await ask(client, "image")
        sent, told = whole.model_extra["plugins"]
        assert sent["result"] == "error: the image endpoint answers 307: no picture"
        assert told["image"] == {"url": f"{url}/inner"}

    routes = [Route("/v1/images/generations", points, methods=["POST"]),
              Route("/inner", within, methods=["GET", "POST"])]  # fmt: skip
    with running(Starlette(routes=routes)) as url:
        asyncio.run(work(url))
    assert not inner


def test_every_turn_is_a_request_of_the_key(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.sqlite")
    key_id, key = make_key(database, quotas={"requests_per_day": 3})
    said = calls("calculator", expression="1")

    async def work() -> None:
        script = Script(said, "One.", said, "never asked")
        async with endpoint(script, CALCULATOR, natively=True, database=database, key=key) as client:
            assert (await ask(client, "calculator", max_tokens=5)).choices[0].message.content == "One."
            with pytest.raises(openai.APIError, match="requests per day"):
                await streamed(client, "calculator", max_tokens=5)
            with pytest.raises(openai.RateLimitError):
                await ask(client, "calculator", max_tokens=5)
        assert len(script.asked) == 3

    asyncio.run(work())
    [row] = [row for row in Administration(database).usage(1) if row["key_id"] == key_id]
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (3, 10 + 20 + 30, 6)


def test_a_refusal_of_the_model_is_the_clients() -> None:
    async def work() -> None:
        script = Script(503, 503, calls("calculator", expression="1"), 503)
        async with endpoint(script, CALCULATOR, natively=True) as client:
            for stream in (False, True):
                with pytest.raises(openai.InternalServerError):
                    await ask(client, "calculator", stream=stream)
            with pytest.raises(openai.APIError, match="no"):
                await streamed(client, "calculator")

    asyncio.run(work())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"plugins": ["browser"]}, "no plug-in 'browser'"),
        ({"plugins": "calculator"}, "a list of names"),
        ({"plugins": [1]}, "a list of names"),
        ({"plugins": ["calculator"], "n": 2}, "one answer"),
        ({"plugins": ["calculator"], "messages": "x"}, "a list of messages"),
        ({"plugins": ["calculator"], "tools": 1}, "a list of tools"),
    ],
)
def test_what_cannot_be_switched_on(body: dict[str, Any], said: str) -> None:
    async def work() -> None:
        async with endpoint(Script(), CALCULATOR) as client:
            with pytest.raises(openai.BadRequestError, match=said):
                asked = {"model": "chat", "messages": QUESTION} | body
                await client.post("/chat/completions", cast_to=object, body=asked)
            with pytest.raises(openai.BadRequestError, match="are run for"):
                await client.post("/completions", cast_to=object, body={"prompt": "x", "plugins": ["calculator"]})

    asyncio.run(work())


def test_an_endpoint_without_plugins_says_so() -> None:
    async def work() -> None:
        served = await gateway(Script().app, "chat", REF, EndpointSpec(model="m"), CONTEXT)
        transport: Any = httpx.ASGITransport(app=served)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://endpoint") as client:
            asked = {"messages": QUESTION, "plugins": ["calculator"]}
            reply = await client.post("/v1/chat/completions", json=asked)
            assert reply.status_code == 400 and "endpoint.plugins.allowed" in reply.json()["error"]["message"]
            assert (await client.get("/v1/plugins")).status_code == 404

    asyncio.run(work())


@pytest.mark.parametrize(
    "fields",
    [{"allowed": ("search",)}, {"corpus": "c"}, {"allowed": ("image",)}, {"allowed": ("python",), "timeout_seconds": 5},
     {"allowed": ("image",), "image_url": "ftp://x"}, {"image_key": "sk-secret"}],
)  # fmt: skip
def test_specs_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"endpoint\.plugins"):
        Plugins(**fields).check()


@pytest.mark.heavy
def test_moss_calls_by_its_own_names_and_form() -> None:
    thinks = '<|Inner Thoughts|>: I should calculate.\n<|Commands|>: Calculate("3*4"), Solve("2x = 8")\n'
    answers = "<|Inner Thoughts|>: Nothing to do.\n<|MOSS|>: Hello."

    async def work() -> None:
        script = Script(*[thinks, "It is 12."] * 2, answers, answers, "Without a name.")
        async with endpoint(script, CALCULATOR, form="moss") as client:
            whole = await ask(client, "calculator", "solver")
            assert whole.choices[0].message.content == "It is 12."
            assert [each["result"] for each in whole.model_extra["plugins"]] == ["12", "x = 4"]
            text, plugins, _ = await streamed(client, "calculator", "solver")
            assert text == "It is 12." and len(plugins) == 4
            assert (await streamed(client, "calculator"))[0] == "Hello."
            assert (await ask(client, "calculator")).choices[0].message.content == "Hello."
            assert (await streamed(client, "calculator"))[0] == "Without a name."
        first, second = script.asked[:2]
        assert [tool["function"]["name"] for tool in first["tools"]] == ["Calculate", "Solve"]
        said, told = second["messages"][1:]
        assert said["reasoning_content"] == "I should calculate." and len(said["tool_calls"]) == 2
        assert told["content"] == 'Calculate("3*4") => 12\nSolve("2x = 8") => x = 4'
        assert second["tools"] == first["tools"] and second["tool_choice"] == "none"

    asyncio.run(work())
