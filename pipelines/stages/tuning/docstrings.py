"""Conversations out of Python sources: a function's head and docstring are asked, its body is the answer.

The request and the answer, joined by a newline, parse to the very function that the source holds (decorators and the
docstring's further lines aside). That is checked on the syntax tree, so that re-indenting a method never changes it.
"""

from __future__ import annotations

import ast
import re
import types
import warnings
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef

INDENT = 4
LINE_ENDS = re.compile(r"\r\n|\r|\n")  # as Python counts lines; str.splitlines knows more
NOT_PYTHON = "not Python"


class Unfit(Exception):
    """Why a function, or a whole source, makes no conversation."""


def parse(text: str) -> ast.Module:
    """The syntax tree of a source. Raises Unfit where it is not Python (of the version that runs this)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes are the source's business
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        cause = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise Unfit(f"{NOT_PYTHON}: {cause}") from None


def documented_functions(tree: ast.Module) -> Iterator[Function]:
    """Every function, method and inner function with a docstring and at least one statement besides it."""
    for node in ast.walk(tree):
        if isinstance(node, Function) and len(node.body) > 1 and ast.get_docstring(node) is not None:
            yield node


def request_and_answer(function: Function, lines: list[str]) -> tuple[str, str]:
    """The two texts of a function; `lines` are those of its source. Raises Unfit with the reason."""
    docstring, first = function.body[0], function.body[1]
    head = lines[function.lineno - 1 : docstring.lineno - 1]
    body = lines[docstring.end_lineno : function.end_lineno]
    if not head or first.lineno <= (docstring.end_lineno or 0):
        raise Unfit("docstring shares a line with other code")
    if _is_stub(function.body[1:]):
        raise Unfit("stub")
    if any("\t" in line[: len(line) - len(line.lstrip())] for line in head + body):
        raise Unfit("indented with tabs")
    if docstring.col_offset - function.col_offset != INDENT:
        raise Unfit("not indented by four")
    while not head[-1].strip() or head[-1].lstrip().startswith("#"):
        head.pop()
    while not body[0].strip():
        body.pop(0)
    summary = (ast.get_docstring(function) or "").strip().split("\n")[0].rstrip()
    if not summary:
        raise Unfit("empty docstring")
    shift = function.col_offset
    request = "\n".join([*_dedented(head, shift), " " * INDENT + _quoted(summary)])
    answer = "\n".join(_dedented(body, shift)).rstrip()
    if not _is_same(function, f"{request}\n{answer}", summary):
        raise Unfit("changed by cutting it out")
    return request, answer


def _is_stub(body: list[ast.stmt]) -> bool:
    """Whether there is nothing to learn: only `pass`, `...` or `raise NotImplementedError`."""
    if len(body) > 1:
        return False
    match body[0]:
        case ast.Pass() | ast.Expr(value=ast.Constant(value=types.EllipsisType())):
            return True
        case ast.Raise(exc=ast.Name(id="NotImplementedError") | ast.Call(func=ast.Name(id="NotImplementedError"))):
            return True
    return False


def _dedented(lines: list[str], shift: int) -> list[str]:
    """The lines moved left; one that stands further left already (inside a string, a comment) goes to the margin."""
    return [line[min(shift, len(line) - len(line.lstrip(" "))) :] for line in lines]


def _quoted(line: str) -> str:
    escaped = line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{escaped[:-1]}\\""""' if escaped.endswith('"') else f'"""{escaped}"""'


def _is_same(function: Function, text: str, summary: str) -> bool:
    try:
        body = parse(text).body
    except Unfit:
        return False
    if len(body) != 1 or type(body[0]) is not type(function) or ast.get_docstring(body[0], clean=False) != summary:
        return False
    return _signature_and_body(body[0]) == _signature_and_body(function)


def _signature_and_body(function: Function) -> list[str]:
    parts = [function.args, *([function.returns] if function.returns else []), *function.body[1:]]
    return [function.name, *(ast.dump(part) for part in parts)]
