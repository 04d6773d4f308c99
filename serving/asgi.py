"""The types of ASGI, as our applications use them, and what they all ask of a scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from serving.limits import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

ARTIFACT_HEADER = b"trunkline-artifact"  # of an answer: what gave it; `ctl artifacts lineage` takes its value
FEEDBACK_PATH = "/feedback"  # what comes there is kept with consent, in a place of its own and no other log

# What the gateway tells the applications within, in their scope: who asks (an id, or nothing), and the request's id.
KEY_ID, REQUEST_ID = "trunkline.key_id", "trunkline.request_id"


def path_of(scope: Scope) -> str:
    """The path below where the application is mounted; empty for the mount itself, without a slash."""
    root, path = scope.get("root_path", "").rstrip("/"), str(scope["path"])
    return path[len(root) :] if root and f"{path}/".startswith(f"{root}/") else path


def error(refused: Refused) -> JSONResponse:
    """An error in OpenAI's shape."""
    body = {"message": refused.message, "type": refused.kind, "param": refused.param, "code": refused.code}
    return JSONResponse({"error": body}, refused.status, refused.headers)
