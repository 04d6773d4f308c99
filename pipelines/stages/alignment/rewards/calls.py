"""Calling rewards, of which nothing is known, for a finite number, and environments for text; in the process that they
run in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.errors import NotReadyError
from cluster.core.identity import usercode
from pipelines.stages.alignment.environments import AnyEnvironment
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.rewards import AnyReward
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

TOLD_CHARACTERS = 2000
REWARDS = "rewards"

Called = Reward | Environment


def load(called: dict[str, Any], kind: str, files: Mapping[str, str]) -> dict[str, Called]:
    """Rewards or environments of plain data, with what they need; `files` are for environments."""
    of: Any = dict[str, AnyReward] if kind == REWARDS else dict[str, AnyEnvironment]
    found: dict[str, Called] = msgspec.convert(called, of)
    for each in found.values():
        with suppress(Exception, SystemExit):  # told with the first sample
            if isinstance(each, Environment):
                each.prepare({name: Path(path) for name, path in files.items()})
            else:
                each.prepare()
    return found


def call(called: Called, sample: dict[str, Any]) -> dict[str, Any]:
    """`value`, the reward of a sample or what an environment says to it; or `why` there is none, and where this is so
    for every sample, the `remedy`."""
    try:
        given = msgspec.convert(sample, Sample)
        value: Any = called.reply(given) if isinstance(called, Environment) else called.of(given)
    except NotReadyError as error:
        return {"why": error.message, "remedy": error.remedy}
    except BaseException as error:
        return {"why": f"failed: {_clipped(usercode.told, error)}"}
    try:
        if isinstance(called, Environment):
            return {"value": as_text(value)}
        return {"value": [(end, as_number(each)) for end, each in value] if called.by_step else as_number(value)}
    except BaseException as error:
        return {"why": f"returned {_clipped(str, error)}"}


def _clipped(tell: Any, error: BaseException) -> str:
    try:
        return str(tell(error))[:TOLD_CHARACTERS]
    except BaseException:  # the text of a user's exception is the user's code, too
        return type(error).__name__


def as_text(value: Any) -> str | None:
    """What an environment says: text, clipped, or None. Raises TypeError for anything else."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} of type {type(value).__name__}, not text")
    return value.encode(errors="replace").decode()[:TOLD_CHARACTERS]


def as_number(value: Any) -> float:
    """A float of a number of Python's, numpy's or torch's, or of a truth value. Raises where it is not one number, or
    not finite; the text says what it is."""
    told = f"{value!r:.60}"
    if not isinstance(value, Real) and hasattr(value, "item"):  # numpy's and torch's
        count = math.prod(getattr(value, "shape", ()))
        if count != 1:
            raise ValueError(f"{count} numbers, {told}")
        value = value.item()
    if not isinstance(value, Real):
        raise TypeError(f"{told} of type {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise OverflowError(f"{told}, which is beyond a float") from None
    if not math.isfinite(number):
        raise ValueError(told)
    return number
