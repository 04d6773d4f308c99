"""GET /v1/models/ID: one of the models that the application lists, as OpenAI's API has it."""

from __future__ import annotations

import json
from contextlib import aclosing

from starlette.responses import JSONResponse

from serving.asgi import Application, Receive, Scope, Send, error, messages, nobody_leaves, path_of
from serving.limits import Refused

LIST = "/v1/models"


def names_model(path: str) -> bool:
    return path.startswith(f"{LIST}/") and len(path) > len(LIST) + 1


def with_each_model(app: Application) -> Application:
    """The application, which also tells of each model alone. An id may have slashes, as those of hubs have."""

    async def one(scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope) if scope["type"] == "http" else ""
        if not names_model(path):
            await app(scope, receive, send)
            return
        wanted, root = path.removeprefix(f"{LIST}/"), scope.get("root_path", "").rstrip("/")
        asked = {**scope, "method": "GET", "path": f"{root}{LIST}", "raw_path": f"{root}{LIST}".encode()}
        body = b""
        async with aclosing(messages(app, asked, nobody_leaves)) as sent:
            async for message in sent:
                body += message.get("body", b"")
        found = next((model for model in json.loads(body).get("data", ()) if model.get("id") == wanted), None)
        refused = Refused(404, f"the model {wanted[:64]!r} does not exist", "model", code="model_not_found")
        await (error(refused) if found is None else JSONResponse(found))(scope, receive, send)

    return one
