"""The tool loop: the model is asked, the plug-ins that it calls are run, and it is asked again with what came of them.

Each turn is a request of its own through the gateway, on behalf of whoever asks: keys, quotas, limits, admission and
logs hold for it as for any other, and nothing is reserved for turns that may not come.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import JSONResponse

from cluster.core.errors import nearest
from serving.asgi import (
    KEY_ID,
    ON_BEHALF,
    REQUEST_ID,
    Application,
    Receive,
    Scope,
    Send,
    again,
    messages,
    path_of,
    posted,
)
from serving.limits import Refused
from serving.plugins.answers import Answer, Streamed, Whole
from serving.plugins.dialects import ByText, Call, Natively
from serving.plugins.moss import Moss
from serving.plugins.running import Called, Running

FIELD = "plugins"
PATH = "/v1/plugins"
CHAT = "/v1/chat/completions"
Dialect = Natively | ByText | Moss
DIALECTS: dict[str, type[Dialect]] = {"native": Natively, "text": ByText, "moss": Moss}
GONE = "http.disconnect"


class Left(Exception):
    """Whoever asked has gone."""


class _Told(Exception):
    """An error that the client was told."""


def with_list(app: Application, running: Running) -> Application:
    """The application, which also tells what plug-ins there are, in the form of OpenAI's lists."""
    schemas = running.schemas(running.spec.allowed)
    told = [{"id": each["function"]["name"], "object": "plugin", **each["function"]} for each in schemas]
    listing = JSONResponse({"object": "list", "data": told})

    async def listed(scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and path_of(scope) == PATH
        await (listing if asked else app)(scope, receive, send)

    return listed


class PluginLoop:
    """`gateway` answers each turn. `calls`: how the model calls tools: `native`, as the engine reads it of the model's
    own template; `moss`, in MOSS's template; `text`, in an answer's text."""

    def __init__(self, running: Running, gateway: Application, calls: str) -> None:
        self.running, self.gateway, self.natively = running, gateway, calls == "native"
        self.dialect = DIALECTS[calls]
        self.rounds, self.allowed = running.spec.rounds, running.spec.allowed

    async def close(self) -> None:
        await self.running.close()

    def wanted(self, path: str, asked: dict[str, Any]) -> tuple[str, ...]:
        """The plug-ins that a request switches on. Raises Refused for what cannot be."""
        given = asked[FIELD]
        if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
            raise Refused(400, "a list of names is needed", FIELD)
        if path != CHAT:
            raise Refused(400, f"plug-ins are run for {CHAT}", FIELD)
        for name in given:
            if name not in self.allowed:
                named = name[:64]
                raise Refused(400, f"there is no plug-in {named!r} here. {nearest(named, list(self.allowed))}", FIELD)
        if asked.get("n") not in (None, 1):
            raise Refused(400, "with plug-ins there is one answer", "n")
        if not isinstance(asked.get("messages"), list):
            raise Refused(400, "a list of messages is needed", "messages")
        if not isinstance(asked.get("tools"), list | None):
            raise Refused(400, "a list of tools is needed", "tools")
        return tuple(dict.fromkeys(given))

    async def __call__(
        self, scope: Scope, asked: dict[str, Any], names: tuple[str, ...], receive: Receive, send: Send
    ) -> None:
        """Answer a request whose body was read."""
        answer: Answer = Streamed(send, asked) if asked.get("stream") else Whole(send)
        try:
            await _Talk(self, scope, asked, names, receive, answer).run()
        except (_Told, Left):
            return


class _Talk:
    """One request."""

    def __init__(
        self,
        loop: PluginLoop,
        scope: Scope,
        asked: dict[str, Any],
        names: tuple[str, ...],
        receive: Receive,
        answer: Answer,
    ) -> None:
        self.loop, self.scope, self.names, self.receive, self.answer = loop, scope, names, receive, answer
        self.dialect = loop.dialect
        plain = {name: value for name, value in asked.items() if name != FIELD}
        self.body = self.dialect.offer(plain, loop.running.schemas(names))
        if isinstance(answer, Streamed):
            self.body["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}

    async def run(self) -> None:
        """Turn by turn to the answer."""
        for turn_number in range(self.loop.rounds + 1):
            last = turn_number == self.loop.rounds
            turn = self.dialect()
            end = await self._turn(turn, turn_number, last)
            calls = [] if last else turn.calls()
            foreign = [call for call in turn.calls() if self._foreign(call)]
            if foreign or not calls:  # the client's own functions are the client's to answer
                await self._end(end, turn, foreign)
                return
            results = [(call, (await self._called(call)).text) for call in calls]
            self.body = {**self.body, "messages": [*self.body["messages"], *turn.answered(results)]}
            if self.loop.natively and self.body.get("tool_choice") not in (None, "none"):  # what was asked for was done
                self.body["tool_choice"] = "auto"

    def _foreign(self, call: Call) -> bool:
        return self.loop.natively and call.name not in self.names and bool(self._own_tools())

    def _own_tools(self) -> list[Any]:
        """The client's."""
        return self.body["tools"][: -len(self.names)]

    async def _turn(self, turn: Dialect, number: int, last: bool) -> dict[str, Any]:
        """Ask the model; the chunk or the answer that its turn ends with. Raises _Told for a refusal."""
        body = {**self.body, "tool_choice": "none"} if last and self.loop.natively else self.body
        if isinstance(self.answer, Whole):
            reply = json.loads(await self._whole(body, number))
            message = reply["choices"][0]["message"]
            shown = turn.take(message).get("content") or ""
            self.answer.say(shown + turn.rest())
            self.answer.usage.add(reply.get("usage"))
            return dict(reply)
        end: dict[str, Any] = {}
        usage: dict[str, Any] = {}  # as far as the turn came
        async with aclosing(self._chunks(body, number)) as chunks:
            async for chunk in chunks:
                if chunk.get("error"):
                    await self.answer.error(0, [], json.dumps(chunk).encode())
                    raise _Told
                usage = chunk.get("usage") or usage
                if choice := next(iter(chunk.get("choices") or ()), None):
                    end = await self._passed(turn, chunk, choice, number) or end
                if turn.complete:
                    break
        self.answer.usage.add(usage)
        return end

    async def _passed(
        self, turn: Dialect, chunk: dict[str, Any], choice: dict[str, Any], number: int
    ) -> dict[str, Any] | None:
        """Pass on what the client may see of a chunk. The chunk itself, where it ends the turn."""
        assert isinstance(self.answer, Streamed)
        delta = turn.take(choice.get("delta") or {})
        if number:
            delta = {name: value for name, value in delta.items() if name != "role"}
        if choice.get("finish_reason"):
            delta = {**delta, "content": (delta.get("content") or "") + turn.rest()}
        if any(value not in (None, "", []) for value in delta.values()):
            await self.answer.chunk(chunk, choices=[{**choice, "delta": delta, "finish_reason": None}])
        return chunk if choice.get("finish_reason") else None

    async def _end(self, end: dict[str, Any], turn: Dialect, foreign: list[Call]) -> None:
        calls = turn.raw(foreign)
        if isinstance(self.answer, Whole):
            choice = end["choices"][0]
            if self.loop.natively:
                choice["message"]["tool_calls"] = [{k: v for k, v in call.items() if k != "index"} for call in calls]
            await self.answer.end(end)
            return
        choice = next(iter(end.get("choices") or ()), {"index": 0, "finish_reason": "stop"})
        await self.answer.end({**end, "choices": [{**choice, "delta": {"tool_calls": calls} if calls else {}}]})

    async def _called(self, call: Call) -> Called:
        """Run a plug-in, and tell so. Raises Left where nobody waits for it any more."""
        told = {"id": call.id, "name": call.name, "arguments": _readable(call.arguments)}
        await self.answer.plugin({**told, "state": "running"})
        work = asyncio.ensure_future(self.loop.running.call(call.name, call.arguments, self.names))
        gone = asyncio.ensure_future(self._gone())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Left
        finally:
            for each in (work, gone):
                each.cancel()
            await asyncio.wait({work, gone})
        found = work.result()
        picture = {"image": found.image} if found.image else {}
        state = "failed" if found.failed else "done"
        await self.answer.plugin(
            {**told, "state": state, "result": found.text, "seconds": round(found.seconds, 3), **picture}
        )
        return found

    async def _gone(self) -> None:
        while (await self.receive())["type"] != GONE:
            pass

    async def _whole(self, body: dict[str, Any], number: int) -> bytes:
        async with aclosing(self._parts(body, number)) as parts:
            return b"".join([part async for part in parts])

    async def _chunks(self, body: dict[str, Any], number: int) -> AsyncGenerator[dict[str, Any]]:
        """The events of a turn."""
        rest = b""
        async with aclosing(self._parts(body, number)) as parts:
            async for part in parts:
                *events, rest = (rest + part).split(b"\n\n")
                for event in events:
                    data = event.removeprefix(b"data: ")
                    if data.startswith(b"{"):
                        yield json.loads(data)

    async def _parts(self, body: dict[str, Any], number: int) -> AsyncGenerator[bytes]:
        """What the model's answer of a turn consists of, as it comes. Raises Left, and _Told for a refusal."""
        refusal, status, headers = b"", 0, []
        async with aclosing(self._sent(body, number)) as sent:
            async for message in sent:
                if message["type"] == "http.response.start":
                    status, headers = message["status"], message["headers"]
                    if status == 200:
                        await self.answer.begin(message)
                elif status == 200:
                    yield message.get("body", b"")
                else:
                    refusal += message.get("body", b"")
        await self._check(status, headers, refusal)

    async def _check(self, status: int, headers: list[Any], body: bytes) -> None:
        """Raise _Told for a refusal, which the client is told."""
        if status == 0:
            raise Left
        if status != 200:
            await self.answer.error(status, headers, body)
            raise _Told

    def _sent(self, body: dict[str, Any], number: int) -> Any:
        data = json.dumps(body, ensure_ascii=False).encode()
        scope = posted(CHAT, data, {"x-request-id": f"{self.scope[REQUEST_ID][:120]}-{number}"})
        if key := self.scope.get(KEY_ID):
            scope[ON_BEHALF] = key
        return messages(self.loop.gateway, scope, again(data, self.receive))


def _readable(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
