"""What an endpoint keeps of batches: files of requests that clients upload, and of their answers. Nothing, unless it is
told where."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from cluster.core.errors import SpecError


class Batches(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """OpenAI's files and batches on an endpoint (docs/serving.md)."""

    path: str = ""
    """Folder where they are kept; empty has no batches. On several machines it must be one that all of them reach, and
    whose file system knows locks."""
    file_bytes: Annotated[int, Meta(ge=1)] = 104_857_600
    """Length of an uploaded file."""
    files: Annotated[int, Meta(ge=1)] = 1000
    """Files of a key, those with answers included."""
    key_bytes: Annotated[int, Meta(ge=1)] = 1_073_741_824
    """Length of all files of a key; with more it uploads none."""
    requests: Annotated[int, Meta(ge=1)] = 50_000
    """Requests of a batch."""
    unfinished: Annotated[int, Meta(ge=1)] = 16
    """Batches of a key that are not finished; one of them is answered at a time."""
    concurrency: Annotated[int, Meta(ge=1)] = 4
    """Requests of batches that a replica answers at once, where nobody waits for it."""
    days: Annotated[int, Meta(ge=1)] = 30
    """How long files and finished batches are kept."""

    def check(self) -> None:
        if "://" in self.path:
            raise SpecError("endpoint.batches.path: a URL; batches are kept in a folder", "Name a folder.")
