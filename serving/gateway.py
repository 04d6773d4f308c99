"""What stands between clients and the application of a replica, as plain ASGI around it.

A route that is not named here is not there: vLLM's application has some that scale, pause or reset the engine, and asks
for keys at some only. What a request asks for is held against the endpoint's limits before the engine sees it. Every
answer says which artifact gave it.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from cluster.core.specs.endpoint import Limits
from serving.limits import Refused, check

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ARTIFACT_HEADER = b"trunkline-artifact"  # `ctl artifacts lineage` takes its value
REQUEST_ID_HEADER = b"x-request-id"
ROUTES = {
    "/health": "GET",
    "/metrics": "GET",
    "/version": "GET",
    "/v1/models": "GET",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/responses": "POST",
    "/tokenize": "POST",
    "/detokenize": "POST",
}


class Gateway:
    """An ASGI application around another. `artifact` is what it serves, as `ctl` names it."""

    def __init__(self, app: Application, artifact: str, limits: Limits) -> None:
        self.app, self.artifact, self.limits = app, artifact, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # policy violation (RFC 6455, 7.4.1)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(REQUEST_ID_HEADER, b"")
        named = [
            (ARTIFACT_HEADER, self.artifact.encode()),
            (REQUEST_ID_HEADER, given[:128] or secrets.token_hex(16).encode()),
        ]

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [pair for pair in message.get("headers", ()) if pair[0].lower() != REQUEST_ID_HEADER]
                message = {**message, "headers": [*own, *named]}
            await send(message)

        try:
            asked = await self._checked(scope, receive)
        except Refused as refused:
            await error(refused)(scope, receive, told)
        else:
            await self.app(scope, asked, told)

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What the application receives. Raises Refused for what goes no further."""
        method, path = scope["method"], path_of(scope)
        known = ROUTES.get(path)
        if known is None:
            raise Refused(404, f"there is no {path} here")
        if known == "GET" and method in ("GET", "HEAD"):
            return receive
        if method == "OPTIONS":  # what a browser asks before it sends
            return receive
        if method != known:
            raise Refused(405, f"{path} is asked by {known}, not by {method}")
        body = await self._body(scope, receive)
        check(body, self.limits)
        begun = False

        async def again() -> Message:
            nonlocal begun
            if begun:
                return await receive()  # that whoever asked has gone
            begun = True
            return {"type": "http.request", "body": body, "more_body": False}

        return again

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body. Raises Refused as soon as it is too long, by what its header says, too."""
        most = self.limits.body_bytes
        too_long = Refused(413, f"the body is longer than {most} bytes (endpoint.limits.body_bytes)")
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            raise too_long
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "the body ended early")
            body += message.get("body", b"")
            if len(body) > most:
                raise too_long
            if not message.get("more_body"):
                return bytes(body)


def path_of(scope: Scope) -> str:
    """The path below where the application is mounted."""
    root, path = scope.get("root_path", "").rstrip("/"), str(scope["path"])
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def error(refused: Refused) -> JSONResponse:
    """An error in OpenAI's shape."""
    body = {"message": refused.message, "type": "invalid_request_error", "param": refused.param, "code": None}
    return JSONResponse({"error": body}, refused.status)
