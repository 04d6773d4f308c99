"""What an endpoint replied, or why it did not, sorted by what to do: ask again, give up on the request, or stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cluster.core.retry_after import retry_after

SHOWN_CHARS = 300
QUOTA = ("insufficient_quota", "billing_hard_limit_reached")  # 429 that no waiting mends
REFUSED = (400, 413, 422)  # the request itself is not to the endpoint's liking
BUSY = (408, 409, 425, 429)


class Again(Exception):
    """The endpoint may answer later; `retry_after`: the pause in seconds that it asked for, 0: none."""

    def __init__(self, message: str, retry_after: float = 0.0, reached: bool = True) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reached = reached


class Unfit(Exception):
    """This request will never be answered."""


class Stop(Exception):
    """No request will be answered."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


@dataclass(frozen=True)
class Reply:
    """A completion. Tokens are None where the endpoint does not count them."""

    model: str
    text: str
    finish_reason: str
    refused: str
    input_tokens: int | None
    output_tokens: int | None

    @property
    def tokens(self) -> int:
        return (self.input_tokens or 0) + (self.output_tokens or 0)


def read_reply(body: bytes) -> Reply:
    """The completion in a response's body. Raises Again for what is none."""
    try:
        data = json.loads(body)
        choice = data["choices"][0]
        message = choice["message"]
        text = message.get("content") or ""
        reason = str(choice.get("finish_reason") or "")
        usage = data.get("usage") or {}
        said = str(message.get("refusal") or "")
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Again(f"it sent no completion but {_shown(body.decode(errors='replace')) or 'nothing'}") from None
    if not isinstance(text, str):
        raise Again(f"it sent a completion whose content is {type(text).__name__}")
    text = text.encode(errors="replace").decode()  # JSON can spell what is no character
    refused = "" if text.strip() else f"no text: {_shown(said) or reason or 'empty'}"
    return Reply(str(data.get("model") or ""), text, reason, refused, *map(_count, counts))


@contextmanager
def sorted_out(timeout_seconds: float) -> Iterator[None]:
    """What the `openai` package raises within, as Again, Unfit or Stop."""
    import openai

    try:
        yield
    except (TimeoutError, openai.APITimeoutError):
        raise Again(f"no answer within {timeout_seconds:g} s") from None
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        raise Again(f"no connection ({_shown(str(cause)) or type(cause).__name__})", reached=False) from None
    except openai.APIStatusError as error:
        raise _by_status(error.status_code, error.response.headers, error.body, error.message) from None


def no_connection(error: Again) -> bool:
    """Whether nobody was there."""
    return not error.reached


def _by_status(status: int, headers: Any, body: Any, message: str) -> Exception:
    inner = body.get("error", body) if isinstance(body, dict) else None
    error = inner if isinstance(inner, dict) else {}
    said = f"{status}: {_shown(str(error.get('message') or message))}"
    if error.get("code") in QUOTA or error.get("type") in QUOTA or status == 402:
        return Stop(said, "The account behind the key is at its limit; raise that.")
    if status in REFUSED:
        return Unfit(said)
    if status in BUSY or status >= 500:
        return Again(said, retry_after(headers))
    if status in (401, 403):
        return Stop(said, "Name the environment variable of a valid key in endpoint.api_key_env.")
    if status == 404:
        return Stop(said, "Check endpoint.url, which mostly ends with /v1, and endpoint.model.")
    return Stop(said, "Check endpoint.url.")


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
