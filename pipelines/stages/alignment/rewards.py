"""Reward functions: a sample to a number. A spec weighs them; one of one's own is named `module:function`.

A function of one's own may do anything wrong that Python allows. What can be seen without calling it is refused before
a run starts; whatever it does when it is called is told with its name and the sample.
"""

from __future__ import annotations

import ast
import inspect
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from cluster.core.errors import InputError, JobError, SpecError, nearest
from cluster.core.identity import usercode
from pipelines.stages.alignment.spec import REWARDS


@dataclass(frozen=True)
class Sample:
    """A conversation's request and a sampled answer; `finished`: the model ended it by itself."""

    messages: list[dict[str, str]]
    answer: str
    finished: bool

    @property
    def request(self) -> str:
        return self.messages[-1]["content"]

    @property
    def told(self) -> str:
        """What an error calls it."""
        return f"the answer {self.answer[:60]!r} to {self.request[:60]!r}"


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


FUNCTIONS: dict[str, RewardFunction] = {"python_parses": python_parses}  # REWARDS names them, too


def reward_function(name: str) -> RewardFunction:
    """The function of a name or of `module:function`. Raises SpecError where there is none that takes a sample."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    if ":" not in name:
        raise SpecError(f"rlhf.rewards: no function {name!r}", nearest(name, list(REWARDS)))
    try:
        function: RewardFunction = usercode.load(name)
    except InputError as error:
        raise SpecError(f"rlhf.rewards: {error.message}", "Give module:function that Python can import.") from error
    _require_takes_sample(name, function)
    return function


def _require_takes_sample(name: str, found: Any) -> None:
    """Raise SpecError for what is no function, or cannot be called with one sample."""
    if not callable(found):
        raise SpecError(
            f"rlhf.rewards: {name} is a value of type {type(found).__name__}, not a function",
            "Name a function that takes a Sample and returns a number.",
        )
    called = found if inspect.isroutine(found) or isinstance(found, type) else type(found).__call__
    if inspect.iscoroutinefunction(called) or inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise SpecError(
            f"rlhf.rewards: {name} is asynchronous or a generator: it does not return a number",
            "Write it as a plain function.",
        )
    try:
        signature = inspect.signature(found)
    except ValueError:  # some of C's have none to tell
        return
    try:
        signature.bind(None)
    except TypeError as error:
        raise SpecError(
            f"rlhf.rewards: {name}{signature} cannot be called with one Sample: {error}",
            "Let it take one argument, the Sample; give all others defaults.",
        ) from None


def apply(name: str, function: RewardFunction, samples: Sequence[Sample], timeout_seconds: float) -> list[float]:
    """A function's reward of each sample.

    Raises InputError, which names function and sample, where it fails or returns no finite number; JobError where it
    takes longer than `timeout_seconds` for all of them. It then runs on in its thread, which Python cannot stop, until
    this process ends.
    """
    found: list[float] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            for sample in samples:
                found.append(_reward(name, function, sample))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True, name=f"reward-{name}")
    thread.start()
    thread.join(timeout_seconds)
    if failure:
        raise failure[0]
    if len(found) < len(samples):
        raise JobError(
            f"rlhf.rewards: {name} did not return within {timeout_seconds:g} s: of {len(samples)} samples it is at "
            f"number {len(found) + 1}, {samples[len(found)].told}",
            "Mend the function, or raise scaling.reward_timeout_seconds.",
        )
    return found


def _reward(name: str, function: RewardFunction, sample: Sample) -> float:
    try:
        value: Any = function(sample)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"rlhf.rewards: {name} failed on {sample.told}: {usercode.told(error)}", "Mend the function."
        ) from error
    try:
        number = as_number(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"rlhf.rewards: {name} returned {error} for {sample.told}", "Let it return a finite number."
        ) from None
    return number


def as_number(value: Any) -> float:
    """A float of a number of Python's, numpy's or torch's, or of a truth value. Raises where it is not one number, or
    not finite; the text says what it is."""
    told = f"{value!r:.60}"
    if not isinstance(value, Real) and hasattr(value, "item"):  # numpy's and torch's
        count = math.prod(getattr(value, "shape", ()))
        if count != 1:
            raise ValueError(f"{count} numbers, {told},")
        value = value.item()
    if not isinstance(value, Real):
        raise TypeError(f"{told} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise OverflowError(f"{told}, which is beyond a float,") from None
    if not math.isfinite(number):
        raise ValueError(told)
    return number
