"""Names in specs: of what is outside of one and whose content is part of the identity, files and functions; and tags,
which tell the structs of a union apart."""

from __future__ import annotations

import re
from typing import Annotated, Any

from msgspec import Meta

FILES = "files"
FUNCTION = "function"
NAMES = "names"  # key of the mark in a field's type


def names_files(suffixes: str = "", beside: tuple[str, ...] = ()) -> Any:
    """The mark of a path: a file, a folder or a glob, here or at an fsspec URL.

    `suffixes`: name of a method of the struct that tells the endings of the files that count below a folder (empty:
    all count); `beside`: files of the same folder that are read with it.
    """
    return Meta(extra={NAMES: FILES, "suffixes": suffixes, "beside": beside})


def snake(name: str) -> str:
    """A class's name as a tag: `GopherQuality` as `gopher_quality`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def kebab(name: str) -> str:
    """A class's name as a tag: `SelfInstruct` as `self-instruct`."""
    return snake(name).replace("_", "-")


File = Annotated[str, names_files()]
Function = Annotated[str, Meta(extra={NAMES: FUNCTION})]
"""`module:function`; a name without a colon is one of ours."""
