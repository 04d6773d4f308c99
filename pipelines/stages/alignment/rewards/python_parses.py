"""Whether an answer is Python: request and answer together are one function."""

from __future__ import annotations

import ast
import warnings

from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample


class PythonParses(Reward, frozen=True):
    """1 where request and answer together are one Python function with a body beside its docstring, else 0.

    An answer that was cut off counts as wrong, whatever it looks like.
    """

    def of(self, sample: Sample) -> float:
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
