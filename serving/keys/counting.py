"""Tokens of a prompt, counted by the application itself (its /tokenize), without a hop."""

from __future__ import annotations

from typing import Any

import msgspec

from serving.asgi import Application, Message, Scope

# What the two kinds of request to /tokenize know of those that they count for.
OF_CHAT = ("model", "messages", "tools", "chat_template", "chat_template_kwargs", "add_generation_prompt",
           "continue_final_message", "add_special_tokens")  # fmt: skip
OF_TEXT = ("model", "prompt", "add_special_tokens")


async def count(app: Application, scope: Scope, asked: dict[str, Any]) -> int | None:
    """How many tokens a conversation or a text has; None where the application does not tell."""
    names = OF_CHAT if "messages" in asked else OF_TEXT
    if names is OF_TEXT and not isinstance(asked.get("prompt"), str):
        return None
    body = msgspec.json.encode({name: asked[name] for name in names if name in asked})
    root = scope.get("root_path", "").rstrip("/")
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    inner = {**scope, "path": f"{root}/tokenize", "raw_path": f"{root}/tokenize".encode(), "headers": headers}
    status, answer = 0, b""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    await app(inner, receive, send)
    if status != 200:
        return None
    found = msgspec.json.decode(answer).get("count")
    return found if isinstance(found, int) else None
