"""Tools that a model calls by writing so: a calculator, a solver of equations, search, Python.

A call is `<tool_call>{"name": "calculator", "arguments": {"expression": "3 * 4"}}</tool_call>`, and what comes of it
`<tool_response>` in the next turn: the form of Qwen's and Hermes' chat templates, which a model learns from
conversations with calls (MOSS's plug-ins are read as such). The first call of a turn counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.alignment.environments.calculator import calculate
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.environments.search import Search
from pipelines.stages.alignment.rewards.sample import Sample

Tool = Literal["calculator", "solver", "search"]
ARGUMENTS = {"calculator": "expression", "solver": "equations", "search": "query"}
MOSS = {"Calculate": "calculator", "Solve": "solver", "Search": "search"}  # what MOSS's plug-ins call them
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
MAX_CHARACTERS = 200
_search: list[Search] = []  # of this process


class Tools(Environment, frozen=True):
    """Answers each call; a turn without a call is the answer."""

    tools: tuple[Tool, ...] = ("calculator", "solver")
    """`calculator`: arithmetic; `solver`: the solutions of an equation, or of several, by sympy; `search`: passages of
    the input `corpus` that a query finds. MOSS's names (Calculate, Solve, Search) call them, too."""
    results: Annotated[int, Meta(ge=1)] = 3
    """Documents that `search` shows, a passage of each."""

    @property
    def searches(self) -> bool:
        return "search" in self.tools

    def require(self) -> None:
        if not self.tools:
            raise SpecError("rlhf.environment.tools: none is left", "Name some, or leave the environment out.")

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
            name, arguments = MOSS.get(call["name"], call["name"]), call.get("arguments", {})
            if name not in self.tools:
                raise ValueError(f"there is no tool {name!r}, but {', '.join(self.tools)}")
            asked = (
                arguments
                if ARGUMENTS[name] in arguments or len(arguments) != 1
                else {ARGUMENTS[name]: _only(arguments)}
            )
            value = asked[ARGUMENTS[name]]
            if name == "search":
                return _search[0](value, self.results)
            return calculate(value) if name == "calculator" else solve(value)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            return f"error: {told}"


def _only(arguments: Mapping[str, Any]) -> Any:
    """The value of the one argument, whatever a model calls it."""
    return next(iter(arguments.values()))


def solve(equations: str | list[str]) -> str:
    """The solutions of equations in the letters that they have, such as `2*x + 3 = 9` or several with `;` between.

    Raises ValueError for what is none.
    """
    from sympy import Eq, S
    from sympy import solve as solved
    from sympy.parsing.sympy_parser import convert_xor, implicit_multiplication_application, standard_transformations

    lines = equations.split(";") if isinstance(equations, str) else list(equations)
    if sum(map(len, lines)) > MAX_CHARACTERS or not re.fullmatch(r"[\w\s+\-*/^().=,]*", "".join(lines)):
        raise ValueError("equations are of letters, numbers and + - * / ^ ( ) =, and no longer than a line")
    if re.search(r"[A-Za-z_]{2}|\._|__", "".join(lines)):
        raise ValueError("an unknown is one letter")
    rules = (*standard_transformations, convert_xor, implicit_multiplication_application)
    system = []
    for line in lines:
        left, equals, right = line.partition("=")
        if not equals or "=" in right:
            raise ValueError(f"{line.strip()!r} is no equation")
        system.append(Eq(_parsed(left, rules), _parsed(right, rules), evaluate=False))
    unknown = sorted(set().union(*(each.free_symbols for each in system)), key=str)
    if not unknown:
        raise ValueError("there is no unknown")
    found = solved(system, unknown, dict=True)
    if not found:
        return "no solution"
    return " or ".join(", ".join(f"{name} = {each.get(name, S(str(name)))}" for name in unknown) for each in found)


def _parsed(text: str, rules: tuple[object, ...]) -> object:
    from sympy.parsing.sympy_parser import parse_expr

    try:
        return parse_expr(text.strip(), transformations=rules, local_dict={}, evaluate=True)
    except Exception as error:  # sympy evaluates what it has tokenized: anything may be raised
        raise ValueError(f"{text.strip()!r} is no expression: {type(error).__name__}") from None
