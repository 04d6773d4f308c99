"""Several answers to one request: with a score or a rank each, or as a list whose first is the best.

UltraFeedback's completions with their scores, files of feedback with ranks, and OASST's rankings as LLaMA-Factory
publishes them.
"""

from __future__ import annotations

from typing import Any

from pipelines.stages.alignment.formats.layout import Layout, Row, has_prompt, number, ordered, prompt_of
from pipelines.stages.tuning.conversation import BadRecord
from pipelines.stages.tuning.formats.record import Record, plain_text

ANSWERS = ("completions", "responses", "answers", "outputs", "candidates")
TEXTS = ("response", "text", "content", "answer", "output", "completion")
SCORES = (
    "fine-grained_score",
    "score",
    "overall_score",
    "rating",
    "reward",
)  # the best first: UltraFeedback has two
RANKS = ("rank", "ranking")
LISTS = {"scores": False, "ratings": False, "ranks": True, "rank": True, "ranking": True}  # whether they are ranks


def _field(record: Record) -> str:
    return next((name for name in ANSWERS if isinstance(record.get(name), list) and record[name]), "")


def _scored_fits(record: Record) -> bool:
    field = _field(record)
    if not field or not has_prompt(record):
        return False
    first = record[field][0]
    if isinstance(first, dict):
        return any(name in first for name in (*SCORES, *RANKS))
    return any(isinstance(record.get(name), list) for name in LISTS)


def _read_scored(record: Record) -> list[Row]:
    field = _field(record)
    answers, prompt = record.take(field), prompt_of(record)
    if not all(isinstance(answer, dict) for answer in answers):
        name = next((name for name in LISTS if isinstance(record.get(name), list)), "scores")
        scores = record.take(name)
        if not isinstance(scores, list) or len(scores) != len(answers):
            raise BadRecord(f"score: {name} has not as many entries as {field}")
        texts = [plain_text(answer, f"{field}[{index}]") for index, answer in enumerate(answers)]
        found = [number(score, f"{name}[{index}]") for index, score in enumerate(scores)]
        return ordered(record, prompt, texts, found, LISTS[name])
    name = next(name for name in (*SCORES, *RANKS) if name in answers[0])
    texts = [_text(answer, f"{field}[{index}]") for index, answer in enumerate(answers)]
    found = [number(answer.get(name), f"{field}[{index}].{name}") for index, answer in enumerate(answers)]
    return ordered(record, prompt, texts, found, name in RANKS)


def _text(answer: dict[str, Any], where: str) -> str:
    name = next((name for name in TEXTS if name in answer), TEXTS[0])
    return plain_text(answer.get(name), f"{where}.{name}")


def _best_first_fits(record: Record) -> bool:
    return isinstance(record.get("output"), list) and has_prompt(record)


def _read_best_first(record: Record) -> list[Row]:
    texts = [plain_text(answer, f"output[{index}]") for index, answer in enumerate(record.take("output"))]
    return ordered(record, prompt_of(record), texts, range(len(texts)), ranks=True)


SCORED = Layout("scored", _scored_fits, _read_scored)
BEST_FIRST = Layout("ranked", _best_first_fits, _read_best_first)
