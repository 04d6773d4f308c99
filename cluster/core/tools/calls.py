"""Calls of tools, as models write them where their template has no form of its own, and the tools by name.

A call is `<tool_call>{"name": "calculator", "arguments": {"expression": "3 * 4"}}</tool_call>`, and what comes of it
`<tool_response>` in the next turn: the form of Qwen's and Hermes' chat templates, which a model learns from
conversations with calls (MOSS's plug-ins are read as such).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from cluster.core.tools.calculator import calculate
from cluster.core.tools.program import Program, printed
from cluster.core.tools.search import Search
from cluster.core.tools.solver import solve

Tool = Literal["calculator", "solver", "search", "python"]
ARGUMENTS = {"calculator": "expression", "solver": "equations", "search": "query", "python": "code"}
MOSS = {
    "Calculate": "calculator",
    "Solve": "solver",
    "Search": "search",
    "Text2Image": "image",
}  # what MOSS's plug-ins call them
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


def called(
    call: Any, tools: Collection[str], program: Program, search: Callable[[], Search] | None, results: int
) -> str:
    """What comes of a call, `{"name": ..., "arguments": {...}}`. What is wrong with it is told as an error, too.

    `search` opens the index, of which `results` documents are shown.
    """
    try:
        name, value = argument(call, tools)
        if name == "search" and search:
            return search()(value, results)
        if name == "python":
            return printed(value, program)
        return calculate(value) if name == "calculator" else solve(value)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        return f"error: {told}"


def argument(call: Any, tools: Collection[str], names: Mapping[str, str] = ARGUMENTS) -> tuple[str, Any]:
    """The tool that a call names, by whichever of its names, and the one argument, whatever a model calls that.

    Raises ValueError for another tool, and what a call raises that has not the form.
    """
    name, arguments = MOSS.get(call["name"], call["name"]), call.get("arguments", {})
    if name not in tools:
        raise ValueError(f"there is no tool {name!r}, but {', '.join(tools)}")
    wanted = names[name]
    return name, arguments[wanted] if wanted in arguments or len(arguments) != 1 else next(iter(arguments.values()))
