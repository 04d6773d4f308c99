"""Judgements of two models' answers, as AlpacaEval writes them: `preference` is 1 or 2, or a number between them.

A number between is how sure the judge is that the second is better (AlpacaEval 2's weighted annotator); in the middle,
and at 0 of older files, neither is.
"""

from __future__ import annotations

from pipelines.stages.alignment.formats.layout import Layout, NothingCompared, Row, number, pair, prompt_of
from pipelines.stages.tuning.conversation import BadRecord
from pipelines.stages.tuning.formats.record import Record

FIELDS = ("instruction", "output_1", "output_2", "preference")
TIES = (0.0, 1.5)


def _fits(record: Record) -> bool:
    return all(name in record for name in FIELDS)


def _read(record: Record) -> list[Row]:
    value = record.take("preference")
    if value is None:
        raise NothingCompared("not judged: preference is null")
    preference = number(value, "preference")
    if preference not in TIES and not 1 <= preference <= 2:
        raise BadRecord(f"score: preference is {value!r}, which is neither 0 nor between 1 and 2")
    better, worse = record.text("output_1"), record.text("output_2")
    if preference > TIES[1]:
        better, worse = worse, better
    return [pair(prompt_of(record), better, worse, tie=preference in TIES)]


LAYOUT = Layout("alpaca-eval", _fits, _read)
