"""The file of a user's contexts, and which of them is the current one."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.clusters.kinds import KINDS, AnyContext, make
from cluster.core.errors import InputError, SpecError, nearest
from cluster.core.home import home

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,62}")


class Book(msgspec.Struct, kw_only=True):
    """All contexts of a user by name."""

    current: str = ""
    contexts: dict[str, AnyContext] = {}

    def get(self, name: str) -> AnyContext:
        """Raises InputError for a name that is not there."""
        if name not in self.contexts:
            known = list(self.contexts)
            remedy = nearest(name, known) if known else "There is none yet: `ctl context add`."
            raise InputError(f"there is no context {name!r}", remedy)
        return self.contexts[name]


def path() -> Path:
    return home() / "contexts.json"


def read() -> Book:
    """The contexts as they are now. Raises InputError that names the file and the field."""
    place = path()
    try:
        data = msgspec.json.decode(place.read_bytes())
    except FileNotFoundError:
        return Book()
    except msgspec.DecodeError as error:
        raise InputError(f"{place}: {error}", "Correct it, or remove it and add the contexts again.") from None
    except OSError as error:
        raise InputError(f"{place}: {error.strerror}", "It must be a file that you can read.") from None
    return _of(data, place)


def _of(data: Any, place: Path) -> Book:
    if not isinstance(data, dict) or not isinstance(data.get("contexts", {}), dict):
        raise InputError(f"{place}: not a file of contexts", "Remove it and add the contexts again.")
    book = Book(current=str(data.get("current", "")))
    for name, fields in data.get("contexts", {}).items():
        kind = fields.get("kind") if isinstance(fields, dict) else None
        if kind not in KINDS:
            raise InputError(f"{place}: contexts.{name}.kind: there is no {kind!r}", nearest(str(kind), list(KINDS)))
        try:
            book.contexts[name] = make(kind, {k: v for k, v in fields.items() if k != "kind"}, f"contexts.{name}")
        except SpecError as error:
            raise InputError(f"{place}: {error.message}", error.remedy) from None
    return book


@contextmanager
def changed() -> Iterator[Book]:
    """The contexts, to be changed and then written; of two commands at once the second sees what the first wrote."""
    place = path()
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(place.with_suffix(".lock"), "w", opener=_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        book = read()
        yield book
        partial = place.with_suffix(f".{os.getpid()}")
        with open(partial, "wb", opener=_private) as file:
            file.write(msgspec.json.format(msgspec.json.encode(book), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def check_name(name: str) -> None:
    """Raise SpecError for what cannot be a context's name: it is part of file names."""
    if not NAME.fullmatch(name):
        raise SpecError(f"context {name!r}: only letters, digits and . _ - are allowed", "Choose another name.")
