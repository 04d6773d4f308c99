"""The plug-ins of one replica: what models are told of them, and what comes of their calls."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import Counter

from cluster.core.identity.digests import cache_root
from cluster.core.sandbox import sandbox
from cluster.core.specs.plugins import Plugins
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.core.tools.calls import ARGUMENTS, argument
from cluster.core.tools.search import documents, write_index
from serving.plugins.image import draw
from serving.plugins.worker import Order
from serving.plugins.workers import WorkerDied, Workers

MOST_CHARACTERS = 4000  # of what comes of a call
TOLD = {
    "calculator": ("Evaluate arithmetic exactly.", "An expression, such as (3 + 4) * 2 / sqrt(16)."),
    "solver": ("Solve equations.", "Equations in letters, such as 2*x + 3 = 9; several with ; between."),
    "search": ("Search documents for passages.", "Words that the passages have."),
    "python": ("Run a Python program and see what it prints. It has no files and no network.", "The program."),
    "image": ("Draw a picture, which the user is shown.", "What the picture shows."),
}
NAMES = {**ARGUMENTS, "image": "prompt"}
DRAWN = "The picture is shown to the user."
CALLS = Counter("trunkline_plugin_calls", "Calls of plug-ins that ended.", ("plugin", "outcome"))


@dataclass(frozen=True)
class Called:
    """What came of a call: a text for the model, and a picture for the user where there is one."""

    text: str
    seconds: float
    failed: bool = False
    image: dict[str, str] | None = None


class Running:
    """`index`: of the corpus that is searched."""

    def __init__(self, spec: Plugins, index: Path | None = None) -> None:
        self.spec, self.index, self.workers = spec, index, Workers()

    def schemas(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Functions, as OpenAI has them, of plug-ins."""
        return [_schema(name) for name in names]

    async def call(self, name: str, arguments: Any, names: tuple[str, ...]) -> Called:
        """Call one of the plug-ins that are switched on. Whatever goes wrong is told the model."""
        began, image, text = time.monotonic(), None, ""
        try:
            call = {"name": name, "arguments": _read(arguments)}
            found, value = argument(call, names, NAMES)
            if found == "image":
                image, text = await draw(self.spec, value), DRAWN
            else:
                text = await self.workers.call(self._order(call, names), self.spec.timeout_seconds)
        except TimeoutError:
            text = f"error: no result within {self.spec.timeout_seconds:g} s"
        except (ValueError, TypeError, AttributeError, KeyError, WorkerDied) as error:
            text = f"error: {f'{error} is missing' if isinstance(error, KeyError) else error}"
        failed = text.startswith("error: ")
        CALLS.labels(name if name in NAMES else "other", "failed" if failed else "done").inc()
        if len(text) > MOST_CHARACTERS:
            text = f"{text[:MOST_CHARACTERS]} ..."
        return Called(text, time.monotonic() - began, failed, image)

    def _order(self, call: dict[str, Any], names: tuple[str, ...]) -> Order:
        return Order(call, list(names), self.spec.program, self.spec.results, str(self.index or ""))

    async def close(self) -> None:
        await self.workers.close()


async def open_plugins(spec: Plugins, store: str) -> Running | None:
    """The plug-ins of an endpoint, ready; None where it has none.

    Raises InputError for a corpus that is not there, NotReadyError where this machine cannot isolate programs.
    """
    if not spec.allowed:
        return None
    if "python" in spec.allowed:
        await asyncio.to_thread(sandbox.require, spec.program.limits())
    index = await asyncio.to_thread(_index_of, Store(store).resolve(spec.corpus, "corpus")) if spec.corpus else None
    return Running(spec, index)


def _index_of(corpus: Artifact) -> Path:
    """The index of a corpus, made where this machine has none."""
    path = cache_root() / "search" / f"{corpus.fingerprint}.sqlite"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_index(partial, documents(corpus))
        os.replace(partial, path)  # of two at once, the later: they are the same
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return path


def _read(arguments: Any) -> Any:
    """Arguments as an object, whichever way a call has them."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the arguments are not JSON: {error}") from None


def _schema(name: str) -> dict[str, Any]:
    does, wants = TOLD[name]
    parameters = {
        "type": "object",
        "properties": {NAMES[name]: {"type": "string", "description": wants}},
        "required": [NAMES[name]],
    }
    return {"type": "function", "function": {"name": name, "description": does, "parameters": parameters}}
