"""Equations solved by sympy, of text: unknowns are letters, and nothing else in it is a name."""

from __future__ import annotations

import re

MAX_CHARACTERS = 200


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
