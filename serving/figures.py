"""What came of an endpoint's requests, of its own version and of a canary, in figures that a promotion may ask for."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from typing import TypeGuard

from cluster.core.errors import InputError, UsageError, nearest

KEPT = 1000  # answers of each version, the last ones
CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([\w.+-]+)\s*")
HOLDS = {
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
}


class Figures:
    """The last answers of one version: for each the seconds to its first piece and to its end, and whether it failed
    (a status of 500 and more, or no end)."""

    def __init__(self) -> None:
        self.answers: deque[tuple[float, float, bool]] = deque(maxlen=KEPT)
        self.requests = 0

    def add(self, first_seconds: float, seconds: float, failed: bool) -> None:
        self.answers.append((first_seconds, seconds, failed))
        self.requests += 1

    def told(self) -> dict[str, float]:
        """The figures by name; without answers only how many requests there were: none."""
        found: dict[str, float] = {"requests": float(self.requests)}
        if not self.answers:
            return found
        whole = [(first, last) for first, last, failed in self.answers if not failed]
        found["failed_fraction"] = 1 - len(whole) / len(self.answers)
        for name, values in (("ttft_seconds", [first for first, _ in whole]), ("seconds", [last for _, last in whole])):
            for percent in (50, 95) if values else ():
                found[f"p{percent}_{name}"] = quantile(values, percent)
        return found


def quantile(values: list[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def with_metrics(
    figures: Mapping[str, float], canary: Mapping[str, object], stable: Mapping[str, object]
) -> dict[str, float]:
    """The figures with the numbers that a canary's artifact tells of itself, such as `heldout_reward`, and with those
    of what stands as `stable_...`. What was measured here goes before what an artifact calls the same."""
    found = {name: float(value) for name, value in canary.items() if _is_number(value)}
    found |= {f"stable_{name}": float(value) for name, value in stable.items() if _is_number(value)}
    return found | dict(figures)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def holds(condition: str, figures: Mapping[str, float]) -> tuple[bool, str]:
    """Whether figures meet `NAME <= NUMBER`, or `NAME <= OTHER_NAME`, several joined by `and`; and what was compared.

    Raises UsageError for what is no such condition, InputError for a figure that there is not.
    """
    told, all_hold = [], True
    for part in condition.split(" and "):
        match = CONDITION.fullmatch(part)
        if match is None:
            raise UsageError(f"{part.strip()!r} is no condition", "Write it as 'p95_ttft_seconds <= 0.5'.")
        name, sign, bound = match.groups()
        left, right = _figure(name, figures), _number(bound)
        if right is None:
            right = _figure(bound, figures)
        held = HOLDS[sign](left, right)
        all_hold &= held
        told.append(f"{name} is {left:.4g}, {'' if held else 'not '}{sign} {right:.4g}")
    return all_hold, "; ".join(told)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _figure(name: str, figures: Mapping[str, float]) -> float:
    if name not in figures:
        if not figures.get("requests") and not name.startswith("stable_"):
            raise InputError(
                f"there is no figure {name!r}: the canary has answered nothing yet", "Wait, or raise its weight."
            )
        raise InputError(f"there is no figure {name!r}", nearest(name, list(figures)))
    return figures[name]
