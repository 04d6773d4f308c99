"""The models of an endpoint beside its own, by the names that clients give: what each is, and who answers for it.

The endpoint's own model under another name is an alias. A LoRA adapter over it is computed by the same engine. Any
other model is an application of its own (serving/beside.py) that has neither a route nor a port, as a canary has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from serving.admission import COMPUTED
from serving.asgi import ARTIFACT_HEADER, Application, Message, Receive, Scope, Send, again, path_of
from serving.split import Ask

MODELS_PATH = "/v1/models"
Place = Literal["own", "adapter", "application"]
OWN: Place = "own"
ADAPTER: Place = "adapter"
APPLICATION: Place = "application"
BESIDE = "+"  # between the names of an endpoint and of a model, in that of the model's application
COUNTING = ("/tokenize", "/detokenize")


class Named(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model under a name. `ref` is its artifact as `ctl` names it, `place` what computes it, `tasks` what it does
    (tasks.py)."""

    name: str
    ref: str
    place: Place
    store: str
    kind: str
    fingerprint: str
    tasks: tuple[str, ...] = ()


class Asked(msgspec.Struct):
    """Of a request, whom it asks."""

    model: str | None = None


class Models:
    """An ASGI application around another that answers as `name`: passes requests for other names to who answers them.

    `engine` is the application without what may pass requests to another version, which has no adapters.
    """

    def __init__(self, app: Application, engine: Application, name: str, open_ask: Callable[[str], Ask]) -> None:
        self.app, self.engine, self.name, self._open_ask = app, engine, name, open_ask
        self._named: dict[str, Named] = {}
        self._asks: dict[str, Ask] = {}

    def set_models(self, named: Iterable[Named]) -> None:
        """Answer to these names from the next request on, and to no others."""
        self._named = {each.name: each for each in named}
        elsewhere = [each.name for each in self._named.values() if each.place == APPLICATION]
        self._asks = {name: self._asks.get(name) or self._open_ask(f"{self.name}{BESIDE}{name}") for name in elsewhere}

    @property
    def some_elsewhere(self) -> bool:
        return bool(self._asks)

    def elsewhere(self, model: object) -> bool:
        """Whether a model's answers are computed by another application, which has a queue of its own."""
        return model in self._asks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if self._named and scope["type"] == "http" else ""
        if path == MODELS_PATH:
            await self._list(scope, receive, send)
        elif path in COMPUTED or path in COUNTING:
            message = await receive()  # whole: the gateway has read it
            await self._answer(scope, message.get("body", b""), receive, send)
        else:
            await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        named = self._named.get(_model(body))
        if named is None:
            await self.app(scope, again(body, receive), send)
        elif named.place == APPLICATION:
            async for message in self._asks[named.name](path_of(scope), list(scope["headers"]), body):
                await send(message)
        elif named.place == ADAPTER:
            await self.engine(scope, again(body, receive), _as(named.ref, send))
        else:  # of two equal names the last one counts
            body = body.rstrip()[:-1] + b',"model":' + json.dumps(self.name).encode() + b"}"
            headers = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
            headers.append((b"content-length", str(len(body)).encode()))
            await self.app({**scope, "headers": headers}, again(body, receive), send)

    async def _list(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application's own list, with these names behind it."""
        start: Message = {}
        body = b""

        async def told(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            headers = list(start.get("headers", ()))
            if start["status"] == 200 and body:
                body = self._with_names(body)
                headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
                headers.append((b"content-length", str(len(body)).encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, told)

    def _with_names(self, body: bytes) -> bytes:
        told = json.loads(body)
        (own,) = [card for card in told["data"] if card["id"] == self.name]
        like = {field: own[field] for field in ("object", "created", "owned_by") if field in own}
        cards = [own]
        for named in self._named.values():
            card = {"id": named.name, **like, "root": named.ref}
            if named.place != APPLICATION:  # whose context is its own
                card |= {"parent": self.name, "max_model_len": own.get("max_model_len")}
            cards.append(card)
        return json.dumps({**told, "data": cards}).encode()


def _model(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=Asked).model or ""
    except msgspec.DecodeError:  # which the application will say
        return ""


def _as(artifact: str, send: Send) -> Send:
    """Sends an answer on that another artifact than the endpoint's own has given."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (ARTIFACT_HEADER, artifact.encode())]}
        await send(message)

    return told
