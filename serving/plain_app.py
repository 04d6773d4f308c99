"""What every application over a model in this process has: its name and context, tokens, whether it lives, and errors
in OpenAI's shape, also of paths that it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from cluster import __version__
from cluster.core.errors import InputError, TrunklineError
from serving.asgi import error
from serving.limits import Refused
from serving.talk import Messages


def plain_app(
    name: str, context_tokens: int, tokens: Callable[[str | Messages], list[int]], text: Callable[[list[int]], str]
) -> FastAPI:
    """The application of a model that clients know under a name. `tokens` gives the ids of a text or a conversation,
    and raises InputError for one that it does not take; `text` goes back."""
    app = FastAPI(openapi_url=None)

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        card = {"id": name, "object": "model", "created": 0, "owned_by": "trunkline"}
        return {"object": "list", "data": [card | {"max_model_len": context_tokens or None}]}

    @app.get("/health")
    def health() -> Response:
        return Response()

    @app.get("/version")
    def version() -> dict[str, str]:
        from transformers import __version__ as transformers_version

        return {"version": __version__, "transformers": transformers_version}

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        try:
            asked = json.loads(await request.body())
            given = asked.get("messages") or asked.get("prompt")
            if isinstance(given, list):
                given = [plain_message(message) for message in given]
            elif not isinstance(given, str):
                raise InputError("prompt: missing, or no text", "Give a text, or messages.")
            ids = await run_in_threadpool(tokens, given)
        except (ValueError, TypeError, AttributeError, TrunklineError, Refused) as wrong:
            return refusal(wrong)
        return JSONResponse({"count": len(ids), "max_model_len": context_tokens or None, "tokens": ids})

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        try:
            ids = json.loads(await request.body()).get("tokens")
            if not isinstance(ids, list) or not all(type(each) is int and 0 <= each < 1 << 31 for each in ids):
                raise InputError("tokens: missing, or no token ids", "Give a list of them.")
            return JSONResponse({"prompt": await run_in_threadpool(text, ids)})
        except (ValueError, TypeError, AttributeError, TrunklineError) as wrong:
            return refusal(wrong)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, wrong: HTTPException) -> Response:
        return error(Refused(wrong.status_code, f"this endpoint, over transformers, has no {request.url.path}"))

    return app


def refusal(wrong: Exception) -> JSONResponse:
    """An error as clients of the API expect it."""
    if isinstance(wrong, Refused):
        return error(wrong)
    if isinstance(wrong, TrunklineError) and not isinstance(wrong, InputError):
        return error(Refused(500, str(wrong), kind="server_error"))
    return error(Refused(400, str(wrong)))


def plain_message(message: Any) -> dict[str, str]:
    """A message whose content is a text; parts of a text are joined."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or not isinstance(role := message.get("role"), str):
        raise InputError("messages: each has a role, and a text as its content", "Leave out pictures and sounds.")
    return {"role": role, "content": content}
