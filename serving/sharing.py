"""A replica of any engine passes a share of its requests on to another version, and those for other models to theirs;
and answers what is passed to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from ray import serve

from serving.admission import Admission
from serving.asgi import Application, Message
from serving.gateway import Gateway
from serving.named import ADAPTER, Models, Named
from serving.split import Ask, Share, Split


class Sharing:
    """The part of a replica between its gateway and its application, called `name`. `keeper` is told of figures and
    pairs."""

    name: str
    split: Split
    models: Models
    _passed: Application

    def shared(self, app: Application, artifact: str, limits: Any, admission: Admission, keeper: Any) -> Application:
        """The application that passes a share on; from now on others may pass theirs to this one."""
        self.split = Split(app, _open_ask, keeper.note.remote)
        self.models = Models(self.split, app, self.name, _open_ask)
        self._passed = Gateway(app, artifact, limits, None, admission)
        return self.models

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take Serve's `user_config`: the share and the models, which change without a new replica."""
        share = config.get("share")
        self.split.set_share(msgspec.convert(share, Share) if share else None)
        named = msgspec.convert(config.get("models") or [], list[Named])
        adapters = [each for each in named if each.place == ADAPTER]
        await self.load_adapters(adapters)  # before anybody may ask for them
        self.models.set_models(named)
        await self.name_adapters(adapters)

    async def load_adapters(self, named: list[Named]) -> None:
        """Bring adapters into the engine."""

    async def name_adapters(self, named: list[Named]) -> None:
        """Answer by these adapters, and have no others."""

    async def pass_on(self, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> AsyncIterator[Message]:
        """Answer what the gateway of another version has let through."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
                 "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers,
                 "client": None, "server": None}  # fmt: skip
        given = False

        async def receive() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # whoever asked has not gone: else this generator is closed
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def answer() -> None:
            try:
                await self._passed(scope, receive, messages.put)
            finally:
                messages.put_nowait(None)

        task = asyncio.create_task(answer())
        try:
            while (message := await messages.get()) is not None:
                yield message
            await task
        finally:
            task.cancel()


def _open_ask(application: str) -> Ask:
    """What asks another application of Serve's."""
    handle = serve.get_app_handle(application).options(method_name="pass_on", stream=True)

    async def ask(path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> AsyncIterator[Message]:
        answer = handle.remote(path, headers, body)
        try:
            async for message in answer:
                yield message
        finally:
            answer.cancel()

    return ask
