"""Names under which scripts imported our modules before the rooms of the house had names; to be removed with them.

A module of an old name holds what the one of the new name holds.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

STAGES = "pipelines.stages"
MOVED = {
    "cluster.errors": "cluster.core.errors",
    "cluster.spec": "cluster.core.specs.spec",
    "cluster.store": "cluster.core.storage.store",
    "cluster.specs": "pipelines.specs",
    "cluster.specs.cleaners": "pipelines.specs",
    "cluster.specs.filters": "pipelines.specs",
    "cluster.specs.sources": "pipelines.specs",
    "pipelines.corpus.rules": f"{STAGES}.corpus.rules.rule",
    "pipelines.corpus.rules.language": f"{STAGES}.corpus.rules.identification",
    "pipelines.ordered": f"{STAGES}.ordered",
    "pipelines.tokens.tokenizer": f"{STAGES}.tokens.tokenizers.tokenizer",
    "pipelines.tuning.encoding": "cluster.core.encoding",
    f"{STAGES}.tuning.encoding": "cluster.core.encoding",
    f"{STAGES}.tuning.dialect": "cluster.core.dialect",
}
ROOMS = {f"pipelines.{room}": f"{STAGES}.{room}" for room in ("alignment", "corpus", "tokens", "tuning")}
MOVED |= ROOMS


class Finder:
    """Asked last, for what no file has."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if _new(name) is None:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        found = importlib.import_module(_new(module.__name__) or "")
        module.__dict__.update({name: value for name, value in vars(found).items() if not name.startswith("__")})


def _new(name: str) -> str | None:
    """A module of its own name here, else one of a room of `STAGES` that moved as it was."""
    if name in MOVED:
        return MOVED[name]
    room = next((old for old in ROOMS if name.startswith(f"{old}.")), None)
    return ROOMS[room] + name.removeprefix(room) if room else None


def install() -> None:
    if not any(type(finder).__name__ == Finder.__name__ for finder in sys.meta_path):
        sys.meta_path.append(Finder())  # without its base class, which takes long to import
