"""Calling reward functions, of which nothing is known: in time, and for a finite number."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from numbers import Real
from typing import Any

from cluster.core.errors import InputError, JobError
from cluster.core.identity import usercode
from pipelines.stages.alignment.rewards.sample import RewardFunction, Sample


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
