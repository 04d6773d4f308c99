"""The rewards of a spec by their names there.

A number is the weight of the reward whose type is its name, or of a function of one's own, `module:function`; a struct
says its type itself, and has a name of the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import get_args

import msgspec

from cluster.core.errors import SpecError, nearest
from pipelines.stages.alignment.rewards import AnyReward
from pipelines.stages.alignment.rewards.python import PythonReward
from pipelines.stages.alignment.rewards.reward import Reward

REWARD_MODEL = "reward_model"  # the name of the reward model, which is an input
OVERLONG = "overlong"  # of the penalty that `overlong_tokens` asks for
TYPES: dict[str, type[Reward]] = {str(cls.__struct_config__.tag): cls for cls in get_args(AnyReward)}
LABEL = re.compile(r"\w[\w-]*")


def named(rewards: Mapping[str, float | Reward]) -> dict[str, Reward]:
    """All rewards but the reward model. Raises SpecError, with the nearest name, for one that there is not."""
    return {name: _reward(name, given) for name, given in rewards.items() if name != REWARD_MODEL}


def weights(rewards: Mapping[str, float | Reward]) -> dict[str, float]:
    """The weight of each, the reward model's among them."""
    return {name: given.weight if isinstance(given, Reward) else given for name, given in rewards.items()}


def check(rewards: Mapping[str, float | Reward], where: str, *, learned: bool = True) -> None:
    """Raise SpecError for rewards that are none, or, where they are `learned` from, of which nothing can be."""
    if isinstance(rewards.get(REWARD_MODEL), Reward):
        raise SpecError(f"{where}.{REWARD_MODEL}: is an input, which has a weight only", "Give a number.")
    for name, reward in named(rewards).items():
        reward.check(f"{where}.{name}")
    if learned and not any(weights(rewards).values()):
        raise SpecError(f"{where}: nothing to learn from", "Name a reward function and its weight.")


def _reward(name: str, given: float | Reward) -> Reward:
    if isinstance(given, Reward):
        if not LABEL.fullmatch(name) or name == OVERLONG:
            raise SpecError(f"rlhf.rewards.{name}: no name for a reward that says its type", "Take a word.")
        return given
    if ":" in name:
        return PythonReward(function=name, weight=given)
    if name not in TYPES:
        raise SpecError(f"rlhf.rewards: no function {name!r}", nearest(name, [*TYPES, REWARD_MODEL]))
    cls = TYPES[name]
    if missing := [field.name for field in msgspec.structs.fields(cls) if field.required]:
        raise SpecError(
            f"rlhf.rewards.{name}: says nothing of {' and '.join(missing)}",
            f"Write it as {{type: {name}, weight: {given:g}, {', '.join(f'{each}: ...' for each in missing)}}}.",
        )
    return cls(weight=given)
