"""The user's own reward: a function named by its import string, called as `function(sample, **options)`.

A function of one's own may do anything wrong that Python allows: what can be seen without calling it is refused before
a run starts.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from cluster.core.errors import InputError, SpecError
from cluster.core.identity import usercode
from cluster.core.specs.naming import Function
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample


class PythonReward(Reward, frozen=True):
    """What a function of the user's returns: `reward(sample) -> number`."""

    function: Function
    """Import string, such as `my_rewards:brevity`; the module travels with the submitted folder."""
    options: dict[str, Any] = {}
    """Keyword arguments of the function."""

    def require(self) -> None:
        taking_sample(self.function, self.options, "rlhf.rewards")

    def prepare(self) -> None:
        loaded(self.function)

    def of(self, sample: Sample) -> Any:
        return loaded(self.function)(sample, **self.options)


@functools.cache
def loaded(name: str) -> Callable[..., Any]:
    """The function of `module:function`, of this process."""
    found: Callable[..., Any] = usercode.load(name)
    return found


def taking_sample(
    name: str, options: dict[str, Any], where: str, given: tuple[str, ...] = ("Sample",)
) -> Callable[..., Any]:
    """The function of `module:function`. Raises SpecError, which begins with `where`, where there is none that takes
    what is `given` and the options."""
    try:
        function = loaded(name)
    except InputError as error:
        raise SpecError(f"{where}: {error.message}", "Give module:function that Python can import.") from error
    _require_takes(name, function, options, where, given)
    return function


def _require_takes(name: str, found: Any, options: dict[str, Any], where: str, given: tuple[str, ...]) -> None:
    """Raise SpecError for what is no function, or cannot be called so."""
    if not callable(found):
        raise SpecError(
            f"{where}: {name} is a value of type {type(found).__name__}, not a function",
            "Name a function that takes a Sample.",
        )
    called = found if inspect.isroutine(found) or isinstance(found, type) else type(found).__call__
    if inspect.iscoroutinefunction(called) or inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise SpecError(
            f"{where}: {name} is asynchronous or a generator: it does not return when it is called",
            "Write it as a plain function.",
        )
    try:
        signature = inspect.signature(found)
    except ValueError:  # some of C's have none to tell
        return
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        also = f" and {', '.join(options)}" if options else ""
        one = "one argument, the Sample," if len(given) == 1 else f"{len(given)} arguments, {' and '.join(given)},"
        raise SpecError(
            f"{where}: {name}{signature} cannot be called with one {' and one '.join(given)}{also}: {error}",
            f"Let it take {one} and the options that the spec names; give all others defaults.",
        ) from None
