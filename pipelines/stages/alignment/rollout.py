"""One rollout: the completions of some prompts, and what they are worth. Several steps may learn from it.

A run that goes on in the middle of one needs it as it was: the weights that drew it are gone. So it is written before
the first step learns from it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cluster.core.storage.location import Location
from pipelines.stages.generation.engine import Completion

ROLLOUTS, CHECKPOINTS = "rollouts", "checkpoints"
STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Rollout:
    """Completions of prompts (positions in the train split), `group_size` of each beside each other; their advantages,
    or those of their tokens; what there is to tell of them.

    `places` are those of the groups among all that were issued for the rollout. `rows` are figures of each completion's
    tokens, by name: reference, values, returns. `kl_coef` is that of the steps that learn from it.
    """

    number: int
    prompts: list[int]
    completions: list[Completion]
    advantages: list[float] | list[list[float]]
    figures: dict[str, Any]
    places: list[int] = field(default_factory=list)
    rows: dict[str, list[list[float]]] = field(default_factory=dict)
    kl_coef: float = 0.0

    def save(self, state: Location) -> None:
        state.write_bytes(_name(self.number), json.dumps(asdict(self)).encode())

    @staticmethod
    def load(state: Location, number: int) -> Rollout:
        fields = json.loads(state.read_bytes(_name(number)))
        return Rollout(**fields | {"completions": [Completion(**row) for row in fields["completions"]]})


def _name(number: int) -> str:
    return f"{ROLLOUTS}/{number:08d}.json"


def forget(state: Location, number: int, steps_per_rollout: int) -> None:
    """Remove the rollouts before the one before `number` that no checkpoint would go on in."""
    kept = [int(found[1]) // steps_per_rollout for name in state.names(CHECKPOINTS) if (found := STEP.match(name))]
    first = min([number - 1, *kept])
    for name in state.names(ROLLOUTS):
        if int(name.partition(".")[0]) < first:
            state.remove(f"{ROLLOUTS}/{name}")


def minibatch(seed: Sequence[int], groups: int, group_size: int, part: int, parts: int) -> list[int]:
    """The completions of one of `parts` minibatches: whole groups, in an order drawn from the seed. One minibatch takes
    all of them as they stand."""
    order = np.arange(groups) if parts == 1 else np.random.default_rng(list(seed)).permutation(groups)
    chosen = order.reshape(parts, -1)[part]
    return [int(group) * group_size + member for group in chosen for member in range(group_size)]
