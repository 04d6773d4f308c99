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
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.alignment.environments.calculator import calculate
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.environments.search import Search
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.evaluation import sandbox

Tool = Literal["calculator", "solver", "search", "python"]
ARGUMENTS = {"calculator": "expression", "solver": "equations", "search": "query", "python": "code"}
MOSS = {"Calculate": "calculator", "Solve": "solver", "Search": "search"}  # what MOSS's plug-ins call them
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
MAX_CHARACTERS = 200
_search: list[Search] = []  # of this process


class Program(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a program may use. It has Python's standard library, and nothing that another one has left."""

    cpu_seconds: Annotated[int, Meta(ge=1)] = 5
    """Processor time."""
    wall_seconds: Annotated[float, Meta(gt=0)] = 10.0
    """Time where it waits, the start of Python included; less than the environment's `timeout_seconds`."""
    memory_bytes: Annotated[int, Meta(ge=1 << 26)] = 1 << 29
    """Memory."""
    output_characters: Annotated[int, Meta(ge=1, le=1500)] = 500
    """What the model is shown of the output: its beginning."""
    isolation: Literal["namespaces", "process"] = "namespaces"
    """`namespaces`: it sees no file, network or process of this machine; `process`, where the kernel does not allow
    that, only limits it."""

    def limits(self) -> sandbox.Limits:
        return sandbox.Limits(self.cpu_seconds, self.wall_seconds, self.memory_bytes, self.isolation)


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
            name, arguments = MOSS.get(call["name"], call["name"]), call.get("arguments", {})
            if name not in self.tools:
                raise ValueError(f"there is no tool {name!r}, but {', '.join(self.tools)}")
            asked = (
                arguments
                if ARGUMENTS[name] in arguments or len(arguments) != 1
                else {ARGUMENTS[name]: _only(arguments)}
            )
            value = asked[ARGUMENTS[name]]
            return self._answer(name, value)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            return f"error: {told}"

    def _answer(self, name: str, value: Any) -> str:
        if name == "search":
            return _search[0](value, self.results)
        if name == "python":
            return printed(value, self.program)
        return calculate(value) if name == "calculator" else solve(value)


def printed(code: str, program: Program) -> str:
    """What Python code prints, and the value that it ends with; why it ended early, where it did, on a last line.

    Raises ValueError for what is no text.
    """
    if not isinstance(code, str):
        raise ValueError("a program is text")
    found = sandbox.execute(code, program.limits())
    text = found.output.decode(errors="replace").rstrip()
    if len(text) > program.output_characters:
        text = f"{text[: program.output_characters]} ... ({len(text)} characters)"
    lines = [*([text] if text else []), *([f"error: {found.error}"] if found.error else [])]
    return "\n".join(lines) or "nothing was printed"


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
