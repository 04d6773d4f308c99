"""Arithmetic in numbers of any size, of text: no names, no calls but a few, no way out."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_CHARACTERS = 200
MAX_BITS = 4096  # of a result, so that no power takes for ever
DIGITS = 12  # of what is no whole number

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "max": max, "min": min, "round": round, "sqrt": math.sqrt}


def calculate(text: str) -> str:
    """The value of an expression, exact where it is rational; `^` is a power, and commas stand between thousands.

    Raises ValueError, which says why, for what is none.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"longer than {MAX_CHARACTERS} characters")
    plain = text.replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    try:
        value = _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError("not an expression") from None
    except (ArithmeticError, TypeError) as error:
        raise ValueError(str(error)) from None
    if isinstance(value, Fraction) and value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.{DIGITS}g}"


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        found = _power(left, right) if isinstance(node.op, ast.Pow) else _operator(node.op)(left, right)
    elif isinstance(node, ast.UnaryOp):
        found = _operator(node.op)(_value(node.operand))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        if node.keywords:
            raise ValueError("functions take no names")
        found = FUNCTIONS[node.func.id](*map(_value, node.args))
    else:
        raise ValueError(f"{ast.unparse(node)[:40]!r} is no number, nor made of numbers")
    if isinstance(found, Fraction) and found.numerator.bit_length() + found.denominator.bit_length() > MAX_BITS:
        raise ValueError("the result is too large")
    return found


def _operator(kind: ast.AST) -> Callable[..., Any]:
    if type(kind) not in OPERATORS:
        raise ValueError("no such operation")
    return OPERATORS[type(kind)]


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent)
        if bits > MAX_BITS:
            raise ValueError("the result is too large")
    found = base**exponent
    if isinstance(found, complex):
        raise ValueError("not a real number")
    return found
