"""Whether an answer ends in the right number, in GSM8K's form (Cobbe et al. 2021, arXiv:2110.14168): `#### 42`."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import ClassVar

from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

MARK = "####"
# The first mark counts: what is written behind it, a second guess say, is too late.
UNIT = r"\s*[^\d\s+\-−.]{0,4}\s*"
DIGITS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
MARKED = re.compile(f"####{UNIT}([+\\-−]?){UNIT}({DIGITS})")
# Where it goes on, it is no number but a fraction, a time, a power, a calculation, or has commas in wrong places.
GOES_ON = re.compile(r"\d|[.,:]\d|e[+-]?\d|\s*[*/^+×÷−-]\s*\d")


class Gsm8k(Reward, frozen=True):
    """1 where the number behind the answer's first `####` is that of the reference, else 0.

    Thousands' commas, a sign and a unit before or behind it do not matter; `3.50` is `3.5`. An answer that was cut off
    counts as wrong. The reference is GSM8K's `answer`, or the number alone.
    """

    needs_reference: ClassVar[bool] = True

    def of(self, sample: Sample) -> float:
        found = number(sample.answer)
        return float(sample.finished and found is not None and found == expected(sample.reference))

    def check_reference(self, reference: str) -> None:
        expected(reference)


def expected(reference: str) -> Decimal:
    """The number of a reference. Raises ValueError where it has none."""
    found = number(reference if MARK in reference else f"{MARK} {reference}")
    if found is None:
        raise ValueError(f"has no number, as GSM8K's `answer` has behind `{MARK}`")
    return found


def number(text: str) -> Decimal | None:
    """The number behind the first `####` of a text; None where there is none."""
    at = text.find(MARK)
    found = MARKED.match(text, at) if at >= 0 else None
    if found is None or GOES_ON.match(text, found.end()):
        return None
    try:
        return Decimal(found[1].replace("−", "-") + found[2].replace(",", ""))
    except InvalidOperation:
        return None
