"""The space of a sweep: which fields vary, over which values, and a fixed list of trials drawn from it by a seed.

Random search (Bergstra and Bengio 2012): every trial is drawn before the first one runs, so that the same command
means the same trials, whatever ran in between.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from cluster.core.errors import UsageError
from cluster.core.specs import literals, overlay

ATTEMPTS = 100  # to draw a trial that is not there yet


@dataclass(frozen=True)
class Axis:
    """A field and its values: `values`, or the interval [low, high], whose logarithm is uniform where `log` is set."""

    path: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def draw(self, rng: random.Random) -> Any:
        if self.values:
            return rng.choice(self.values)
        if isinstance(self.low, int) and isinstance(self.high, int):
            if not self.log:
                return rng.randint(self.low, self.high)
            return min(self.high, int(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1)))))
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)


def parse_axis(text: str) -> Axis:
    """`STEP.FIELD=1e-4..1e-2:log` (an interval; of whole numbers where both ends are) or `STEP.FIELD=adamw,muon`.

    Raises UsageError for anything else.
    """
    wrong = UsageError(
        f"--over {text}: not of the form STEP.FIELD=LOW..HIGH, LOW..HIGH:log or A,B,C",
        "Try pretrain.learning_rate=1e-4..1e-2:log.",
    )
    path, equals, values = (part.strip() for part in text.partition("="))
    if not equals or path.count(".") < 1 or not all(path.split(".")) or not values:
        raise wrong
    if ".." not in values:
        found = literals.parse(f"[{values}]")
        return Axis(path, values=tuple(found))
    low, _, rest = values.partition("..")
    high, colon, kind = rest.partition(":")
    ends = [literals.parse(low), literals.parse(high)]
    if any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in ends):
        raise wrong
    if colon and kind != "log":
        raise wrong
    if not ends[0] < ends[1] or (colon and ends[0] <= 0):
        raise UsageError(f"--over {text}: an interval goes upwards, and a logarithmic one starts above 0")
    if "." in low + high or "e-" in low + high:
        ends = [float(end) for end in ends]
    return Axis(path, low=ends[0], high=ends[1], log=bool(colon))


def draw(axes: list[Axis], samples: int, seed: int) -> list[dict[str, Any]]:
    """So many different trials, each a mapping of path to value; fewer where the space has no more."""
    rng = random.Random(seed)
    found: list[dict[str, Any]] = []
    for _ in range(samples * ATTEMPTS):
        if len(found) == samples:
            break
        trial = {axis.path: axis.draw(rng) for axis in axes}
        if trial not in found:
            found.append(trial)
    return found


def nested(trial: dict[str, Any]) -> dict[str, Any]:
    """A trial as `--set` would have it: step to fields."""
    changes: dict[str, Any] = overlay.At()
    for path, value in trial.items():
        for key in reversed(path.split(".")):
            value = overlay.At({key: value})
        changes = overlay.combine(changes, value)
    return changes
