"""Pictures, drawn by another endpoint of OpenAI's shape. Its picture goes to the client; the model is told so."""

from __future__ import annotations

import os
from typing import Any

import aiohttp
import msgspec

from cluster.core.specs.plugins import Plugins

MOST_BYTES = 32 << 20  # of its answer


async def draw(spec: Plugins, prompt: object) -> dict[str, str]:
    """A picture as the endpoint gives it: `b64_json`, or a `url` that the client may open and nobody here does.

    Raises ValueError, which says why, where there is none.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("a prompt is text")
    asked: dict[str, Any] = {"prompt": prompt, "n": 1}
    if spec.image_model:
        asked["model"] = spec.image_model
    headers = {"Authorization": f"Bearer {os.environ.get(spec.image_key[1:], '')}"} if spec.image_key else {}
    url = f"{spec.image_url.rstrip('/')}/images/generations"
    timeout = aiohttp.ClientTimeout(total=spec.timeout_seconds)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(url, json=asked, allow_redirects=False) as reply,
        ):
            data = await reply.content.read(MOST_BYTES)
            while len(data) < MOST_BYTES and (more := await reply.content.read(MOST_BYTES - len(data))):
                data += more
    except (aiohttp.ClientError, OSError) as error:
        raise ValueError(f"the image endpoint does not answer ({type(error).__name__})") from None
    return _picture(reply.status, data)


def _picture(status: int, data: bytes) -> dict[str, str]:
    try:
        told = msgspec.json.decode(data)
        if status == 200:
            made = told["data"][0]
            found = {name: made[name] for name in ("b64_json", "url") if isinstance(made.get(name), str)}
            if found:
                return found
        message = str(told["error"]["message"])[:200]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError, AttributeError):
        message = "no picture"
    raise ValueError(f"the image endpoint answers {status}: {message}")
