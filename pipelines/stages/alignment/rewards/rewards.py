"""Reward functions by name. A spec weighs them; one of one's own is named `module:function`.

A built-in one is the function of its name in the module of its name here, and stands in `REWARDS` (spec.py). A function
of one's own may do anything wrong that Python allows: what can be seen without calling it is refused before a run
starts; whatever it does when it is called is told with its name and the sample (calls.py).
"""

from __future__ import annotations

import inspect
from typing import Any

from cluster.core.errors import InputError, SpecError, nearest
from cluster.core.identity import usercode
from cluster.core.import_strings import import_string
from pipelines.stages.alignment.rewards.sample import RewardFunction
from pipelines.stages.alignment.spec import REWARD_MODEL, REWARDS


def reward_function(name: str) -> RewardFunction:
    """The function of a name or of `module:function`. Raises SpecError where there is none that takes a sample."""
    function: RewardFunction
    if name in REWARDS and name != REWARD_MODEL:
        function = import_string(f"{__package__}.{name}:{name}")
        return function
    if ":" not in name:
        raise SpecError(f"rlhf.rewards: no function {name!r}", nearest(name, list(REWARDS)))
    try:
        function = usercode.load(name)
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
