"""What an endpoint keeps of what people say of its answers: nothing, unless it is told where."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Feedback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Thumbs, choices and edits of an endpoint's answers (docs/serving.md)."""

    path: str = ""
    """Folder or object-store URL where they are kept, of which every replica has a file; empty keeps none. On several
    machines it must be one that all of them reach."""
    body_bytes: Annotated[int, Meta(ge=1)] = 262_144
    """Length of one request, with the conversation in it."""
