"""The formats in which the world publishes preferences, by name. Each is one layout of records, or several.

To add one, write a module with a `Layout` and enter it in `LAYOUTS`, where records are known by what is in them, and in
`FORMATS` under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipelines.stages.alignment.formats import judgements, pairs, ranked, single, trees
from pipelines.stages.alignment.formats.layout import Layout, Row
from pipelines.stages.tuning.conversation import BadRecord
from pipelines.stages.tuning.formats.record import MEANINGFUL, TOOLS, Record, refuse

AUTO = "auto"
LAYOUTS = (  # a record is of the first that it fits
    trees.LAYOUT,
    judgements.LAYOUT,
    pairs.PROMPTED,
    pairs.DIALOGUES,
    ranked.SCORED,
    ranked.BEST_FIRST,
    single.LAYOUT,
)
FORMATS: dict[str, tuple[Layout, ...]] = {
    AUTO: LAYOUTS,
    "dpo": (pairs.PROMPTED, pairs.DIALOGUES),
    "sharegpt": (pairs.PROMPTED,),
    "medicalgpt": (pairs.PROMPTED,),
    "hh-rlhf": (pairs.DIALOGUES,),
    "moss-rlhf": (pairs.DIALOGUES,),
    "ultrafeedback": (ranked.SCORED, pairs.PROMPTED),
    "ranked": (ranked.SCORED, ranked.BEST_FIRST),
    "oasst": (trees.LAYOUT, ranked.BEST_FIRST),
    "alpaca-eval": (judgements.LAYOUT,),
    "kto": (single.LAYOUT,),
}


class Found(NamedTuple):
    """What a record is: its layout, its rows, what there is to count, and the names of the fields left out."""

    layout: str
    rows: list[Row]
    notes: list[str]
    left_out: list[str]


def read(name: str, fields: Mapping[str, Any]) -> Found:
    """The preferences of a record of a format. Raises BadRecord."""
    record = Record(fields)
    layout = next((layout for layout in FORMATS[name] if layout.fits(record)), None)
    if layout is None:
        listed = ", ".join(map(repr, list(record)[:12])) or "none"
        raise BadRecord(f"not of format {name}: the fields are {listed}" if name != AUTO else _unknown(record, listed))
    rows = layout.read(record)
    refuse(record, {*MEANINGFUL, *TOOLS})
    return Found(
        layout.name, rows, record.notes, [key for key, value in record.items() if value not in (None, "", [], {})]
    )


def _unknown(record: Record, listed: str) -> str:
    missing = [side for side in ("chosen", "rejected") if not record.has(side)]
    if len(missing) == 1:
        return f"missing: {missing[0]}"
    return f"no known format of preferences: the fields are {listed}"
