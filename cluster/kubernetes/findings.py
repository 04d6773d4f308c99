"""What is wrong with a manifest: where, what, and what to do about it.

An error is refused by the API server or by KubeRay, or gives a secret away; a warning is accepted and hurts later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong, at a field of a document."""

    path: Path
    message: str
    remedy: str
    level: Literal["error", "warning"] = "error"

    @property
    def field(self) -> str:
        """`spec.workerGroupSpecs[0].rayStartParams.num-cpus`; a key with dots or slashes in it stands in brackets."""
        text = ""
        for step in self.path:
            if isinstance(step, int):
                text += f"[{step}]"
            elif "." in step or "/" in step:
                text += f"['{step}']"
            else:
                text += f".{step}" if text else step
        return text


@dataclass(frozen=True)
class Finding:
    """A problem of one document of one file."""

    file: str
    document: str
    problem: Problem

    def __str__(self) -> str:
        problem = self.problem
        level = "" if problem.level == "error" else f"{problem.level}: "
        return f"{self.file}: {self.document}: {problem.field}: {level}{problem.message}. {problem.remedy}"

    def as_dict(self) -> dict[str, str]:
        problem = self.problem
        return {
            "file": self.file,
            "document": self.document,
            "field": problem.field,
            "level": problem.level,
            "message": problem.message,
            "remedy": problem.remedy,
        }


Problems = Iterator[Problem]


class At:
    """A place in a document: `at["spec"]["replicas"]` walks, `.value` is what is there (None where nothing is)."""

    def __init__(self, value: Any, path: Path = ()) -> None:
        self.value = value
        self.path = path

    def __getitem__(self, step: str | int) -> At:
        value = self.value
        if isinstance(step, int):
            found = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            found = value.get(step) if isinstance(value, dict) else None
        return At(found, (*self.path, step))

    def __truediv__(self, dotted: str) -> At:
        """`at / "template.spec.containers"`."""
        here = self
        for step in dotted.split("."):
            here = here[step]
        return here

    def __bool__(self) -> bool:
        return bool(self.value)

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def items(self) -> Iterator[At]:
        """The places of a list."""
        yield from (self[index] for index in range(len(self.value) if isinstance(self.value, list) else 0))

    def text(self) -> str:
        """The value where it is a string, else an empty one: another type is the schema's to report."""
        return self.value if isinstance(self.value, str) else ""

    def number(self) -> int | None:
        return self.value if isinstance(self.value, int) and not isinstance(self.value, bool) else None

    def error(self, message: str, remedy: str) -> Problem:
        return Problem(self.path, message, remedy)

    def warning(self, message: str, remedy: str) -> Problem:
        return Problem(self.path, message, remedy, "warning")
