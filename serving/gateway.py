"""What stands between clients and the application of a replica, as plain ASGI around it.

A route that is not named here is not there: vLLM's application has some that scale, pause or reset the engine, and asks
for keys at some only. Who asks is known before the body is read (serving/keys/guard.py); what is asked for is held
against the endpoint's limits before the engine sees it, and refused where too much waits already
(serving/admission.py). Every answer says which artifact gave it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from cluster.core.specs.endpoint import EndpointSpec, Limits
from serving.admission import COMPUTED, POOLED, Admission
from serving.asgi import (
    ARTIFACT_HEADER,
    FEEDBACK_PATH,
    KEY_ID,
    METRICS_PATH,
    REQUEST_ID,
    Application,
    Message,
    Receive,
    Scope,
    Send,
    again,
    error,
    path_of,
)
from serving.batch.api import BatchApi, batch_api
from serving.feedback.taking import RECEIPT_HEADER, WithFeedback
from serving.keys.answered import with_usage
from serving.keys.counting import count
from serving.keys.database import place
from serving.keys.guard import Guard
from serving.limits import Refused, check
from serving.models import names_model, with_each_model
from serving.named import Models
from serving.openapi import PATH as DOCUMENT_PATH
from serving.openapi import with_document
from serving.page.page import Page
from serving.plugins.loop import FIELD as PLUGINS_FIELD
from serving.plugins.loop import PATH as PLUGINS_PATH
from serving.plugins.loop import PluginLoop, with_list
from serving.plugins.running import Running
from serving.tracing import Traced, collector
from serving.watching.counted import Counted
from serving.watching.exposed import Exposed

REQUEST_ID_HEADER = b"x-request-id"
ROUTES = {
    "/health": "GET",
    METRICS_PATH: "GET",
    "/version": "GET",
    DOCUMENT_PATH: "GET",
    "/v1/models": "GET",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/v1/responses": "POST",
    **dict.fromkeys(POOLED, "POST"),
    "/tokenize": "POST",
    "/detokenize": "POST",
}


WITHOUT_KEY = ("/health",)  # for what looks whether it lives, and learns nothing else


async def gateway(
    app: Application,
    name: str,
    artifact: str,
    spec: EndpointSpec,
    context_tokens: int,
    admission: Admission | None = None,
    *,
    models: Models | None = None,
    tells_request_id: bool = True,
    plugins: Running | None = None,
    calls: str = "text",
    describe: Callable[[], dict[str, Any]] = dict,
) -> Application:
    """The application of a replica: `app`, behind keys where the endpoint asks for them, with the page, its `plugins`
    and what it keeps of feedback. `calls`: how its model calls tools (serving/plugins/loop.py); `describe`
    gives its OpenAPI document. Raises DatabaseFailed, OSError where feedback or batches cannot be kept."""
    access, feedback = spec.access, spec.feedback
    if feedback.path:
        app = WithFeedback(app, name, artifact, feedback)
    guard = Guard(access, place(access.database), name, context_tokens) if access.keys else None
    if guard:
        await guard.open()
    app, routes = Exposed(app, name, artifact), {FEEDBACK_PATH: "POST"} if feedback.path else {}
    if plugins:
        app, routes = with_list(app, plugins), {**routes, PLUGINS_PATH: "GET"}
    app = with_each_model(app)
    app = with_document(app, name, spec, {**ROUTES, **routes}, describe)
    page = Page(name, access.keys, bool(feedback.path), spec.plugins.allowed, spec.scorer) if spec.page else None
    own = (app, artifact, spec.limits, guard, admission)
    served = Gateway(*own, models=models, page=page, more=routes, tells_request_id=tells_request_id)
    if plugins:
        served.plugins = PluginLoop(plugins, served, calls)
    if spec.batches.path:
        served.batches = batch_api(Path(spec.batches.path) / name, spec.batches, served, served.admission)
    traced = Traced(served, served.routes) if collector() else served
    if not access.origins:
        return traced
    told = (ARTIFACT_HEADER.decode(), REQUEST_ID_HEADER.decode(), RECEIPT_HEADER.decode(), "retry-after")
    return CORSMiddleware(
        traced,
        allow_origins=access.origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=told,
    )


class Gateway:
    """An ASGI application around another. `artifact` is what it serves, as `ctl` names it; `models`: who answers for
    other names (named.py); `more`: routes of `app` beside those of the API; `tells_request_id`: answers name their
    request here (Serve does it for its replicas)."""

    def __init__(
        self,
        app: Application,
        artifact: str,
        limits: Limits,
        guard: Guard | None = None,
        admission: Admission | None = None,
        *,
        models: Models | None = None,
        page: Page | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
        tells_request_id: bool = True,
    ) -> None:
        self.app, self.artifact, self.limits, self.guard, self.page = app, artifact, limits, guard, page
        self.admission = admission or Admission(sys.maxsize, 0)
        self.models, self.tells_request_id = models, tells_request_id
        self.routes = {**ROUTES, **more, **(page.routes if page else {})}
        self.batches: BatchApi | None = None
        self.plugins: PluginLoop | None = None
        self.counted = Counted(self._answer, self.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._ending(send))
        elif scope["type"] == "http":
            await self.counted(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # policy violation (RFC 6455, 7.4.1)

    def _ending(self, send: Send) -> Send:
        """At the end of its life the replica writes down what it has not."""

        async def told(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown"):
                if self.batches:
                    await self.batches.close()
                if self.plugins:
                    await self.plugins.close()
                if self.guard:
                    await self.guard.close()
            await send(message)

        return told

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(REQUEST_ID_HEADER, b"")
        request_id = given[:128] or secrets.token_hex(16).encode()
        named = {ARTIFACT_HEADER: self.artifact.encode()}
        if self.tells_request_id:
            named[REQUEST_ID_HEADER] = request_id
        scope = {**scope, REQUEST_ID: request_id.decode("latin-1"), KEY_ID: ""}

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [pair for pair in message.get("headers", ()) if pair[0].lower() != REQUEST_ID_HEADER]
                if any(pair[0] == ARTIFACT_HEADER for pair in own):  # another version has answered
                    del named[ARTIFACT_HEADER]
                message = {**message, "headers": [*own, *named.items()]}
            await send(message)

        try:
            self._check_route(scope)
            if self.page and path_of(scope) in self.page.routes:
                await self.page(scope, receive, told)
                return
            if self.batches and self.batches.methods(path_of(scope)):
                await self._keep(self.batches, scope, receive, told)
                return
            if self.guard is None or path_of(scope) in WITHOUT_KEY:
                if scope["method"] != "POST":
                    await self.app(scope, receive, told)
                    return
                self._check_room(scope)
                body = await self._body(scope, receive)
                asked = check(body, self.limits)
                if wanted := self._plugins(scope, asked):
                    await wanted(receive, told)
                    return
                with self._place(scope, asked):
                    await self.app(scope, again(body, receive), told)
            else:
                await self._guarded(self.guard, scope, receive, told, request_id.decode("latin-1"))
        except Refused as refused:
            await error(refused)(scope, receive, told)

    def _check_route(self, scope: Scope) -> None:
        """Raise Refused for what is not open."""
        method, path = scope["method"], path_of(scope)
        known: tuple[str, ...] = (self.routes[path],) if path in self.routes else ()
        if self.batches and not known:
            known = self.batches.methods(path)
        if names_model(path):
            known = ("GET",)
        if not known:
            raise Refused(404, f"there is no {path or '/'} here")
        if method not in known and not ("GET" in known and method == "HEAD"):
            raise Refused(405, f"{path} is asked by {' or '.join(known)}, not by {method}")

    async def _keep(self, batches: BatchApi, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is about files and batches: a key's own, and its body as it comes."""
        if self.guard is None:
            await batches(scope, receive, send)
            return
        key = await self.guard.caller(scope)
        scope = {**scope, KEY_ID: key.id, "headers": [p for p in scope["headers"] if p[0] != b"authorization"]}
        if scope["method"] != "POST":
            await batches(scope, receive, send)
            return
        entry = self.guard.entry(key, batches.named(path_of(scope)), scope[REQUEST_ID])
        try:
            await self.guard.reserve_request(entry)
        except Refused as refused:
            self.guard.refuse(entry, refused)
            raise
        await self.guard.pass_on(batches, scope, receive, send, entry, {})

    async def _guarded(self, guard: Guard, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """Answer the owner of a key."""
        key = await guard.caller(scope)
        path = path_of(scope)
        scope = {**scope, KEY_ID: key.id}
        headers = [pair for pair in scope["headers"] if pair[0] != b"authorization"]  # nobody further in sees the key
        if scope["method"] != "POST":
            await self.app({**scope, "headers": headers}, receive, send)
            return
        self._check_room(scope)
        entry = guard.entry(key, path, request_id)
        try:
            body = await self._body(scope, receive)
            asked = check(body, self.limits)
            wanted = self._plugins(scope, asked)
            entry = guard.measured(entry, asked, body)
        except Refused as refused:
            guard.refuse(entry, refused)
            raise
        if wanted:  # each turn of the model is a request of its own
            await wanted(receive, send)
            return
        with self._place(scope, asked):
            try:
                entry = await guard.reserve(entry, key, asked, partial(count, self.app, scope))
            except Refused as refused:
                guard.refuse(entry, refused)
                raise
            body = with_usage(path, asked, body)
            headers = [pair for pair in headers if pair[0] not in (b"content-length", b"transfer-encoding")]
            scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
            await guard.pass_on(self.app, scope, again(body, receive), send, entry, asked)

    def _plugins(self, scope: Scope, asked: dict[str, Any]) -> Callable[[Receive, Send], Awaitable[None]] | None:
        """What answers a request that switches plug-ins on. Raises Refused."""
        if not asked.get(PLUGINS_FIELD):
            return None
        if self.plugins is None:
            raise Refused(400, "this endpoint has no plug-ins (endpoint.plugins.allowed)", PLUGINS_FIELD)
        return partial(self.plugins, scope, asked, self.plugins.wanted(path_of(scope), asked))

    def _check_room(self, scope: Scope) -> None:
        """Raise Refused where too much waits, before the body is read and anything is written down. (Where it may be
        for a model that has a queue of its own, the body must be read first.)"""
        if path_of(scope) in COMPUTED and not (self.models and self.models.some_elsewhere):
            self.admission.check()

    def _place(self, scope: Scope, asked: dict[str, Any]) -> AbstractContextManager[None]:
        """A place in the queue for what the engine computes. Raises Refused."""
        own = not (self.models and self.models.elsewhere(asked.get("model")))
        return self.admission.place(asked) if own and path_of(scope) in COMPUTED else nullcontext()

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
