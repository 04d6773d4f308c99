"""An endpoint that speaks OpenAI's API, and what is asked of it: the part of a spec. How fast and for how much is a
matter of `scaling`, so that a run that was stopped by its limits goes on under others.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from cluster.core.errors import SpecError


class ChatEndpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model behind OpenAI's API, one of `ctl serve up` or any other, and how it is to answer."""

    url: str = "http://127.0.0.1:8000/v1"
    """Its base URL, as the `openai` package takes it."""
    model: str = ""
    """Name of the model, as the endpoint lists it."""
    api_key_env: str = ""
    """Environment variable that holds the key; empty: the endpoint asks for none. The key itself is kept nowhere."""
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    """0 answers greedily."""
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    """Share of probability that tokens are drawn from, the likeliest first (Holtzman et al. 2020)."""
    max_completion_tokens: Annotated[int, Meta(ge=1)] = 3072
    """Longest answer; as of Alpaca's data (Taori et al. 2023)."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the limit is called in a request: every server knows `max_tokens`, but OpenAI's newer models refuse it."""
    body: dict[str, Any] = {}
    """More fields of a request's body, such as `{chat_template_kwargs: {enable_thinking: false}}`."""

    def check(self, where: str) -> None:
        """Raises SpecError for an endpoint that cannot be asked; `where` names the field."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SpecError(f"{where}.url: {self.url!r} is no address", "Write it as http://HOST:PORT/v1.")
        if "@" in parts.netloc or parts.query:
            raise SpecError(
                f"{where}.url: what stands in a spec is no secret, and this may hold one",
                f"Give the address alone, and name the key's environment variable in {where}.api_key_env.",
            )
        if not self.model:
            raise SpecError(f"{where}.model: is empty", "Name the model; `ctl serve list` shows those served here.")
        if taken := sorted({"messages", "model", "n", "seed", "stream"} & self.body.keys()):
            raise SpecError(f"{where}.body: {', '.join(taken)} is not yours to set", "Leave it out.")
