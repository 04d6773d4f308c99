"""A pipeline: a function that strings steps together, and the script that defines it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.core.errors import InputError, NotReadyError, TrunklineError
from cluster.core.graph import Graph, Steps, in_script, record
from cluster.core.identity import usercode
from cluster.core.provenance import PROJECT_ROOT
from cluster.core.storage.store import Store


class Pipeline:
    """A named pipeline function. `graph()` records its steps without building any."""

    def __init__(self, function: Callable[[Steps], Any]) -> None:
        self.function = function
        self.name = function.__name__.replace("_", "-")
        self.__doc__ = function.__doc__

    def graph(self, store: Store, changes: dict[str, Any] | None = None, name: str = "") -> Graph:
        """The steps, with `changes` (step to fields, and `scaling`) laid over their specs."""
        if name and not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise InputError(f"--name {name!r}: only letters, digits and . _ - are allowed")
        return record(name or self.name, self.function, changes or {}, store)


def pipeline(function: Callable[[Steps], Any]) -> Pipeline:
    """Decorator: make a pipeline of a function that takes `step`."""
    return Pipeline(function)


def load_script(path: Path) -> Pipeline:
    """The one pipeline that a script defines. Raises InputError for a missing, broken or ambiguous script."""
    if not path.is_file():
        raise InputError(f"{path}: no such file", "Give the path of a pipeline script.")
    path = path.absolute()
    prepare(path)
    found = importlib.util.spec_from_file_location(f"{usercode.SCRIPT}{path.stem}", path)
    if found is None or found.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # as Python has it: dataclasses and specs look their annotations up there
    try:
        found.loader.exec_module(module)
    except TrunklineError:
        raise
    except SystemExit as error:
        raise InputError(
            f"{path}: ends itself, by sys.exit({error.code!r}), before its pipeline is known",
            'Put what is to run below `if __name__ == "__main__":`.',
        ) from error
    except Exception as error:
        raise in_script(error, path) from error
    pipelines = [value for value in vars(module).values() if isinstance(value, Pipeline)]
    if len(pipelines) != 1:
        raise InputError(f"{path}: defines {len(pipelines)} pipelines", "A script has exactly one @pipeline function.")
    return pipelines[0]


def prepare(script: Path) -> None:
    """Make a script's folder importable, and refuse names that mean two things."""
    check_imports()
    usercode.use(script)
    usercode.sources(script.resolve(), script.resolve().parent)


def check_imports() -> None:
    """Raise NotReadyError where a user's own folder called `pipelines` or `serving` shadows Trunkline's."""
    for package in ("pipelines", "serving"):
        found = importlib.util.find_spec(package)
        places = list(found.submodule_search_locations or []) if found else []
        if not any(Path(place).resolve() == PROJECT_ROOT / package for place in places):
            raise NotReadyError(
                f"the package {package!r} is imported from {places or 'nowhere'}, not from {PROJECT_ROOT}",
                f"Rename your own folder {package!r}, or run from another directory.",
            )
