"""Plug-ins of an endpoint: tools that its gateway runs for whoever switches them on. None, unless they are named."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from cluster.core.errors import SpecError
from cluster.core.tools.program import Program

Plugin = Literal["calculator", "solver", "search", "python", "image"]
PLUGINS: tuple[str, ...] = get_args(Plugin)


class Plugins(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request may switch on by `plugins` (docs/serving.md)."""

    allowed: tuple[Plugin, ...] = ()
    """`calculator`: arithmetic; `solver`: equations, by sympy; `search`: passages of a corpus; `python`: what a program
    prints in the sandbox; `image`: pictures of another endpoint."""
    corpus: str = ""
    """Artifact that `search` looks into: its train split."""
    results: Annotated[int, Meta(ge=1)] = 3
    """Documents that `search` shows, a passage of each."""
    program: Program = Program()
    """What a program of `python` may use."""
    image_url: str = ""
    """Base URL of an API with OpenAI's `images/generations`, as `https://images.example.org/v1`."""
    image_model: str = ""
    """Model that it is asked for; empty names none."""
    image_key: str = ""
    """Its key: `$NAME` takes it from an environment variable of the replicas."""
    rounds: Annotated[int, Meta(ge=1)] = 4
    """Times that the model may call plug-ins in one answer; then it answers with what it has."""
    timeout_seconds: Annotated[float, Meta(gt=0)] = 20.0
    """How long a call may take; the model is then told that it failed."""

    def check(self) -> None:
        if ("search" in self.allowed) != bool(self.corpus):
            raise SpecError("endpoint.plugins: `search` and a corpus go together", "Give endpoint.plugins.corpus.")
        if ("image" in self.allowed) != bool(self.image_url):
            raise SpecError("endpoint.plugins: `image` and image_url go together", "Give endpoint.plugins.image_url.")
        if self.image_url and not self.image_url.startswith(("http://", "https://")):
            raise SpecError("endpoint.plugins.image_url: no http:// or https:// address", "Give one.")
        if self.image_key and not self.image_key.startswith("$"):
            raise SpecError(
                "endpoint.plugins.image_key: a key does not belong there, where it is told to whoever asks what runs",
                "Give the name of a variable of the replicas, as $IMAGES_KEY.",
            )
        if "python" in self.allowed and self.program.wall_seconds >= self.timeout_seconds:
            raise SpecError(
                f"endpoint.plugins.program.wall_seconds: {self.program.wall_seconds:g} s are not less than "
                f"endpoint.plugins.timeout_seconds, {self.timeout_seconds:g} s",
                "Lower the one or raise the other.",
            )
