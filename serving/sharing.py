"""A replica of any engine passes a share of its requests on to another version, and those for other models to theirs;
and answers what is passed to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from ray import serve

from serving.admission import Admission
from serving.asgi import Application, Message, again, messages, nobody_leaves, post_scope
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
        # Whoever asked has not gone while this goes on: else this generator is closed.
        async with aclosing(messages(self._passed, post_scope(path, headers), again(body, nobody_leaves))) as sent:
            async for message in sent:
                yield message


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
