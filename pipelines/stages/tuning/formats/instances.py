"""Seed tasks of Self-Instruct: an instruction, and instances of it, each an input and an output."""

from __future__ import annotations

from pipelines.stages.tuning.conversation import BadRecord, Conversation
from pipelines.stages.tuning.formats.layout import Layout
from pipelines.stages.tuning.formats.pairs import Names, of_pair
from pipelines.stages.tuning.formats.record import Record


def _fits(record: Record) -> bool:
    return isinstance(record.get("instances"), list) and "instruction" in record


def _read(record: Record) -> list[Conversation]:
    """A conversation an instance."""
    instruction, found = record.text("instruction"), []
    for number, instance in enumerate(record.take("instances") or []):
        if not isinstance(instance, dict):
            raise BadRecord(f"no turns: instances[{number}] is no object")
        one = Record({**instance, "instruction": instruction})
        found.append(of_pair(one, Names("instruction", "output")))
        record.notes += one.notes
    if not found:
        raise BadRecord("missing: instances of the instruction")
    return found


LAYOUT = Layout("instances", ("instances",), _fits, _read)
