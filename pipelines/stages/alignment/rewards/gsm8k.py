"""Whether an answer ends in the right number, in GSM8K's form (Cobbe et al. 2021, arXiv:2110.14168): `#### 42`."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from cluster.core.errors import InputError
from pipelines.stages.alignment.rewards.sample import Sample

# The first mark counts: what is written behind it, a second guess say, is too late.
MARKED = re.compile(r"####\s*[^\d\s+-]{0,4}\s*([+-]?)\s*[^\d\s+-]{0,4}\s*(\d[\d,]*(?:\.\d+)?|\.\d+)")
MARK = "####"


def gsm8k(sample: Sample) -> float:
    """1 where the number behind the answer's first `####` is that of the reference, else 0.

    Commas within it, a sign and a unit before or behind it do not matter; `3.50` is `3.5`. An answer that was cut off
    counts as wrong. The reference is GSM8K's `answer`, or the number alone. Raises InputError where it has none.
    """
    expected = number(sample.reference if MARK in sample.reference else f"{MARK} {sample.reference}")
    if expected is None:
        raise InputError(
            f"gsm8k: the reference of a prompt has no number: {sample.reference[:60]!r}",
            "Give prompts whose records have an `answer` in GSM8K's form (conversations.format: prompts).",
        )
    return float(sample.finished and number(sample.answer) == expected)


def number(text: str) -> Decimal | None:
    """The number behind the first `####` of a text; None where there is none."""
    at = text.find(MARK)
    found = MARKED.match(text, at) if at >= 0 else None
    if found is None:
        return None
    try:
        return Decimal(found[1] + found[2].replace(",", ""))
    except InvalidOperation:
        return None
