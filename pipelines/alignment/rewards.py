"""Reward functions: a sample to a number. A spec weighs them; one of one's own is named `module:function`."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from cluster import usercode
from cluster.errors import InputError, SpecError, nearest
from cluster.specs.alignment import REWARD_MODEL


@dataclass(frozen=True)
class Sample:
    """A conversation's request and a sampled answer; `finished`: the model ended it by itself."""

    messages: list[dict[str, str]]
    answer: str
    finished: bool

    @property
    def request(self) -> str:
        return self.messages[-1]["content"]


RewardFunction = Callable[[Sample], float]


def python_parses(sample: Sample) -> float:
    """1 where request and answer together are one Python function with a body beside its docstring, else 0.

    An answer that was cut off counts as wrong, whatever it looks like.
    """
    if not sample.finished:
        return 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in the model's strings
            tree = ast.parse(f"{sample.request}\n{sample.answer}")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # all that ast.parse says of text
        return 0.0
    function = tree.body[0] if len(tree.body) == 1 else None
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return 0.0
    statements = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return float(bool(statements))


FUNCTIONS: dict[str, RewardFunction] = {"python_parses": python_parses}


def reward_function(name: str) -> RewardFunction:
    """The function of a name or of `module:function`. Raises SpecError where there is none."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if ":" not in name:
        raise SpecError(f"rlhf.rewards: no function {name!r}", nearest(name, [*FUNCTIONS, REWARD_MODEL]))
    try:
        function: RewardFunction = usercode.load(name)
    except InputError as error:
        raise SpecError(f"rlhf.rewards: {error.message}", "Give module:function that Python can import.") from None
    return function
