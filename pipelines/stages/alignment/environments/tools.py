"""Tools that a model calls by writing so: a calculator, a solver of equations, search, Python.

The tools, and the form of calls, are those of an endpoint's plug-ins (cluster/core/tools). The first call of a turn
counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.sandbox import sandbox
from cluster.core.tools.calls import CALL, Tool, called
from cluster.core.tools.program import Program
from cluster.core.tools.search import Search
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.rewards.sample import Sample

_search: list[Search] = []  # of this process


class Tools(Environment, frozen=True):
    """Answers each call; a turn without a call is the answer."""

    later_fields: ClassVar[tuple[str, ...]] = ("program",)

    tools: tuple[Tool, ...] = ("calculator", "solver")
    """`calculator`: arithmetic; `solver`: the solutions of an equation, or of several, by sympy; `search`: passages of
    the input `corpus` that a query finds; `python`: what a program prints, in the sandbox. MOSS's names (Calculate,
    Solve, Search) call them, too."""
    results: Annotated[int, Meta(ge=1)] = 3
    """Documents that `search` shows, a passage of each."""
    program: Program = Program()
    """What a program of `python` may use."""

    @property
    def searches(self) -> bool:
        return "search" in self.tools

    def require(self) -> None:
        if not self.tools:
            raise SpecError("rlhf.environment.tools: none is left", "Name some, or leave the environment out.")
        if "python" in self.tools:
            if self.program.wall_seconds >= self.timeout_seconds:
                raise SpecError(
                    f"rlhf.environment.program.wall_seconds: {self.program.wall_seconds:g} s are not less than "
                    f"rlhf.environment.timeout_seconds, {self.timeout_seconds:g} s",
                    "Lower the one or raise the other.",
                )
            sandbox.require(self.program.limits())

    def prepare(self, files: Mapping[str, Path]) -> None:
        if self.searches:
            _search[:] = [Search(files["corpus"])]
        if "solver" in self.tools:
            import sympy  # noqa: F401

    def reply(self, sample: Sample) -> str | None:
        found = CALL.search(sample.answer)
        if found is None:
            return None
        return f"<tool_response>\n{self._called(found[1])}\n</tool_response>"

    def _called(self, text: str) -> str:
        try:
            call = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"error: {error}"
        return called(call, self.tools, self.program, lambda: _search[0], self.results)
