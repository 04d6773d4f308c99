"""Whether an answer's `\\boxed{...}` is mathematically what the reference says, by math-verify (github.com/huggingface/
math-verify), which reads LaTeX and compares with sympy.

It bounds its own time by SIGALRM, which only a main thread has: here, that of the reward's process. Only the model's
answer is read, never the request: a prompt that shows what `\\boxed{}` is to look like is no answer.
"""

from __future__ import annotations

import importlib.util
import re
from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import NotReadyError
from pipelines.stages.alignment.rewards.gsm8k import MARK, number
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

BOXES = ("\\boxed{", "\\fbox{")
SEARCH_SECONDS = 2  # for sympy to read, and again to compare; what takes longer is not equal
# What math-verify reads otherwise: exponents (as Euler's number) and mixed numbers without LaTeX (as the first one).
PLAIN = re.compile(r"\\?\$?([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)")
MIXED = re.compile(r"([+-]?)(\d+)\s+(\d+)\s*/\s*(\d+)")


class Mathematics(Reward, frozen=True):
    """1 where what the answer's last `\\boxed{...}` holds equals the reference, else 0.

    The reference is the last `\\boxed{...}` of a solution, what stands behind GSM8K's `####`, or all of the text. An
    answer that was cut off counts as wrong, and so does one that sympy does not finish with.
    """

    needs_reference: ClassVar[bool] = True

    timeout_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """How long it may take over one sample; then its process is started again, as sympy may not hear of its own end."""
    on_failure: Literal["fail", "skip", "score"] = "score"
    """An answer that the checker is lost on is wrong: a model writes whatever it likes."""

    def require(self) -> None:
        if not importlib.util.find_spec("math_verify"):
            raise NotReadyError("the reward `mathematics` needs math-verify", "`pip install 'trunkline[train]'`.")

    def prepare(self) -> None:
        import math_verify  # noqa: F401

    def check_reference(self, reference: str) -> None:
        expected(reference)

    def of(self, sample: Sample) -> float:
        answer = boxed(own(sample))
        return float(sample.finished and answer is not None and equal(expected(sample.reference), answer))


def own(sample: Sample) -> str:
    """The answer without the lines that it repeats of the request and that have a box."""
    text = sample.answer
    for line in sample.request.splitlines():
        if any(box in line for box in BOXES):
            text = text.replace(line.strip(), " ")
    return text


def boxed(text: str) -> str | None:
    """What the last box of a text holds, braces balanced; None where there is no box, or nothing in it."""
    at, start = max((text.rfind(box), len(box)) for box in BOXES)
    if at < 0:
        return None
    depth, begin = 1, at + start
    for index in range(begin, len(text)):
        if text[index] in "{}" and text[index - 1] != "\\":
            depth += 1 if text[index] == "{" else -1
        if depth == 0:
            return text[begin:index].strip() or None
    return None


def expected(reference: str) -> str:
    """What a reference says. Raises ValueError where it says nothing."""
    if MARK in reference and (found := number(reference)) is not None:
        return str(found)
    found_box = boxed(reference)
    text = found_box if found_box is not None else reference.strip().strip("$").strip()
    if not text:
        raise ValueError("says nothing to compare an answer with")
    return text


def equal(reference: str, answer: str) -> bool:
    """Whether two pieces of LaTeX mean the same."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    plain = [_plain(text) for text in (reference, answer)]
    if None not in plain:
        return plain[0] == plain[1]
    reading = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    expected, found = (
        parse(f"\\boxed{{{_fraction(text)}}}", reading, parsing_timeout=SEARCH_SECONDS) for text in (reference, answer)
    )
    return bool(expected and found and verify(expected, found, timeout_seconds=SEARCH_SECONDS))


def _plain(text: str) -> Decimal | None:
    """A text that is one decimal number."""
    found = PLAIN.fullmatch(text.strip())
    digits = found[1].replace(",", "") if found else ""
    return Decimal(digits) if any(sign.isdigit() for sign in digits.lower().partition("e")[0]) else None


def _fraction(text: str) -> str:
    """`1 1/2` as a fraction that LaTeX has a meaning for."""
    found = MIXED.fullmatch(text.strip())
    if not found:
        return text
    sign, whole, above, below = found.groups()
    return f"{sign}\\frac{{{int(whole) * int(below) + int(above)}}}{{{below}}}"
