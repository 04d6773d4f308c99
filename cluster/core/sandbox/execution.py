"""What runs in the jail where a program's output is wanted and not a verdict on it: the program, and what it prints.

Run as `python -P -s -S execution.py`; imports nothing of the project but what lies beside it, since there is nothing
else in the jail. Standard input: a line of JSON with program, isolation, cpu_seconds, memory_bytes. Standard output is
what the program printed there or as an error, the value of the expression that it ends with, and what it raised; and
END, where its end was reached.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import random
import sys
import traceback
from typing import Any

NAME = "<program>"
END = b"\0"


def run(order: dict[str, Any]) -> None:
    """Run a program in this process, which has given up its privileges and has its limits."""
    os.dup2(1, 2)
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8", errors="replace", closefd=False)
    try:
        random.seed(order["program"])  # the same program prints the same
        execute(order["program"])
    except SystemExit:
        pass
    except BaseException as error:
        print(told(error))
    print(END.decode(), end="", flush=True)


def execute(program: str) -> None:
    """Run Python, and show the value of the expression that it ends with, unless it is None, as a prompt does."""
    tree = ast.parse(program, NAME)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(tree, NAME, "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), NAME, "eval"), names)
        if value is not None:
            print(repr(value))


def told(error: BaseException) -> str:
    """An exception, and the line of the program that raised it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == NAME]
    if isinstance(error, SyntaxError) and not lines:
        return f"SyntaxError: {error.msg} (line {error.lineno})"
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # where `-P` does not look
    jail = importlib.import_module("jail")
    sys.path.pop(0)
    jail.enter(json.loads(sys.stdin.buffer.readline()), run)
