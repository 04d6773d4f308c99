"""Whether an answer is code that passes its prompt's tests, in the sandbox (cluster/core/sandbox): the tests run
beside the program and not in it, so that a pass cannot be forged."""

from __future__ import annotations

import ast
import builtins
import functools
import re
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.sandbox import sandbox
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

FENCED = re.compile(r"^[ \t]*```[ \t]*(?:python|py)?[ \t]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE | re.IGNORECASE)
OWN_SECONDS = 30.0  # of the reward's time beside the program's


class PassesTests(Reward, frozen=True):
    """1 where the answer's code passes the tests that the prompt's reference holds, else 0.

    The tests are Python that calls one function by its name, which they do not define: `assert add(1, 2) == 3`, or
    HumanEval's `check(add)` behind the `check`. An answer that was cut off counts as wrong.
    """

    needs_reference: ClassVar[bool] = True

    code: Literal["answer", "request_and_answer"] = "answer"
    """The program: the answer (its last block fenced with ```, where it has one), or the request and the answer."""
    cpu_seconds: Annotated[int, Meta(ge=1)] = 5
    """Processor time of a program."""
    wall_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """Time of a program that waits."""
    memory_bytes: Annotated[int, Meta(ge=1 << 26)] = 1 << 29
    """Memory of a program."""
    isolation: Literal["namespaces", "process"] = "namespaces"
    """`namespaces`: the program sees no file, network or process of this machine; `process`, where the kernel does not
    allow that, only limits it."""

    def require(self) -> None:
        sandbox.require(self._limits())

    def check_reference(self, reference: str) -> None:
        entry_point(reference)

    def of(self, sample: Sample) -> float:
        if not sample.finished:
            return 0.0
        tried = sandbox.Trial(self.program(sample), entry_point(sample.reference), sample.reference)
        return float(sandbox.run(tried, self._limits()).passed)

    def program(self, sample: Sample) -> str:
        if self.code == "request_and_answer":
            return f"{sample.request}\n{sample.answer}"
        blocks = FENCED.findall(sample.answer)
        return str(blocks[-1]) if blocks else sample.answer

    def _limits(self) -> sandbox.Limits:
        return sandbox.Limits(self.cpu_seconds, self.wall_seconds, self.memory_bytes, self.isolation)


@functools.lru_cache(1024)
def entry_point(tests: str) -> str:
    """The function that tests call and do not define. Raises ValueError where they are no Python, or it is not one."""
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"is not Python that could test an answer: {error}") from None
    used: dict[str, None] = {}  # in their order
    defined = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                used[node.id] = None
            else:
                defined.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    wanted = [name for name in used if name not in defined]
    if len(wanted) != 1:
        told = ", ".join(wanted) or "none"
        raise ValueError(f"tests one function that it does not define, and here they are: {told}")
    return wanted[0]
