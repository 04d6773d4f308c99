"""The page's files as an ASGI application: read once, sent under a policy that lets nothing else run or be loaded.

They hold nothing that is a secret, so no key is asked for: whoever opens the page gives theirs in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from serving.asgi import Receive, Scope, Send, path_of

FOLDER = Path(__file__).parent
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SETTINGS = "/page/settings.json"
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        b"trusted-types 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-cache"),
]


class Page:
    """The files by their paths. `keys`: the endpoint asks for keys; `feedback`: it keeps what people say of answers;
    `plugins`: what a request may switch on; `scorer`: the model whose scores stand beside answers."""

    def __init__(
        self, endpoint: str, keys: bool, feedback: bool, plugins: Sequence[str] = (), scorer: str = ""
    ) -> None:
        said = {"endpoint": endpoint, "keys": keys, "feedback": feedback, "plugins": plugins, "scorer": scorer}
        self.files = {SETTINGS: (msgspec.json.encode(said), "application/json")}
        for file in sorted(FOLDER.iterdir()):
            if kind := KINDS.get(file.suffix):
                path = "/" if file.name == "index.html" else f"/page/{file.name}"
                self.files[path] = (file.read_bytes(), kind)
        # Its paths and their method. The empty one is the mount without a slash, which leads to the page.
        self.routes = dict.fromkeys(["", *self.files], "GET")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        if not path:  # relative names on the page are below the endpoint, not beside it
            there = scope.get("root_path", "").rstrip("/").encode() + b"/"
            await send({"type": "http.response.start", "status": 307, "headers": [(b"location", there)]})
            await send({"type": "http.response.body", "body": b""})
            return
        data, kind = self.files[path]
        tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'.encode()
        fresh = dict(scope["headers"]).get(b"if-none-match") == tag
        headers = [*HEADERS, (b"etag", tag), (b"content-type", f"{kind}; charset=utf-8".encode())]
        if not fresh:
            headers.append((b"content-length", str(len(data)).encode()))
        await send({"type": "http.response.start", "status": 304 if fresh else 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if fresh or scope["method"] == "HEAD" else data})
