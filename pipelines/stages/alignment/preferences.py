"""The preferences stage: answers to one request of which one is better, as JSON lines (formats/layout.py has the rows).

Made from conversations, the better answer is the true one and the worse a damaged copy of it, or the true answer to
another request; what these teach is to tell right from broken, and from right but beside the point.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.specs import PreferencesSpec
from pipelines.stages import licenses
from pipelines.stages.alignment import formats
from pipelines.stages.alignment.corruption import corrupt
from pipelines.stages.alignment.feedback import read_feedback
from pipelines.stages.alignment.formats.layout import NothingCompared
from pipelines.stages.tuning.conversations import (
    SPLITS,
    Row,
    held_out,
    read_conversations,
    read_lines,
    without_duplicates,
    write_lines,
)
from pipelines.stages.tuning.declared import FIELDS, of_file, of_record
from pipelines.stages.tuning.intake import label
from pipelines.stages.tuning.records import read_records

# The splits, what was rejected, what was there twice, how many there were in all, and what else there is to tell.
Found = tuple[dict[str, list[Row]], list[Row], list[Row], int, dict[str, Any]]

FOREIGN = "foreign"
WHOLE = ("prompt", "chosen", "rejected", "ranked", "answer", "desirable")  # rows that are equal in these are one
FOREIGN_REACH = 16  # a foreign answer is one of the next so many shorter or longer ones


def build(ctx: Context[PreferencesSpec]) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl and report.json. Raises InputError for a bad source."""
    ctx.spec.check_inputs(ctx.inputs)
    found = _of_conversations(ctx) if ctx.spec.source == "corrupted" else _of_people(ctx.spec)
    splits, rejected, duplicates, given, told = found
    flow = {
        "in": given,
        **{split: len(splits[split]) for split in SPLITS},
        "rejected": len(rejected),
        "duplicates": len(duplicates),
    }
    assert sum(flow.values()) == 2 * given, f"preferences were lost or made: {flow}"
    if not all(splits.values()):
        raise InputError(
            f"preferences: nothing is left for {' and '.join(s for s in SPLITS if not splits[s])}: {flow}",
            "Give more pairs, or a larger held-out fraction.",
        )
    report = {
        "flow": flow,
        "how": {split: dict(sorted(Counter(row["how"] for row in splits[split]).items())) for split in SPLITS},
        "reasons": dict(sorted(Counter(row["reason"] for row in rejected).items())),
        "licenses": licenses.counted((row["license"], 1) for split in SPLITS for row in splits[split]),
        **told,
    }
    for split in SPLITS:
        write_lines(ctx.output, f"{split}.jsonl", splits[split])
    write_lines(ctx.output, "rejected.jsonl", rejected + duplicates)
    ctx.output.write_bytes("report.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    return report


def read_preferences(folder: Path, split: str) -> list[Row]:
    """The pairs of a split of a preferences folder (`id`, `prompt`, `chosen`, `rejected`, perhaps `margin` or `tie`,
    `how`, `source`, `license`), and its single answers (`answer`, `desirable`), in their order; of each list all its
    pairs. Older folders have neither source nor licence."""
    return [
        row for whole in read_rankings(folder, split) for row in (pairs_of(whole) if "ranked" in whole else [whole])
    ]


def read_rankings(folder: Path, split: str) -> list[Row]:
    """The same, with lists as they are (`ranked`)."""
    return read_lines(Location(folder), f"{split}.jsonl")


def pairs_of(row: Row) -> list[Row]:
    """The pairs of a list, the better ones first."""
    rest = {name: value for name, value in row.items() if name != "ranked"}
    places = itertools.combinations(range(len(row["ranked"])), 2)
    return [
        rest | {"id": f"{row['id']}#{i}>{j}", "chosen": row["ranked"][i], "rejected": row["ranked"][j]}
        for i, j in places
    ]


def corrupted(rows: list[Row], count: int, spec: PreferencesSpec) -> list[Row]:
    """`count` pairs of each conversation's last answer, in their order, each damaged anew."""
    answers = [row["messages"][-1]["content"] for row in rows]
    by_length = sorted(range(len(rows)), key=lambda index: (len(answers[index]), rows[index]["id"]))
    rank = {index: place for place, index in enumerate(by_length)}
    pairs = []
    for index, number in itertools.product(range(len(rows)), range(count)):
        row = rows[index]
        name = f"{row['id']}#{number}" if count > 1 else row["id"]
        rng = Random(f"{spec.seed}/{name}")
        worse, how = "", FOREIGN
        if rng.random() < spec.foreign_fraction:
            place = rank[index]
            near = by_length[max(0, place - FOREIGN_REACH) : place + FOREIGN_REACH + 1]
            others = [other for other in near if answers[other] != answers[index]]
            worse = answers[rng.choice(others)] if others else ""
        if not worse:
            worse, how = corrupt(answers[index], rng, spec.damage)
        pair = {"id": name, "prompt": row["messages"][:-1], "chosen": answers[index], "rejected": worse, "how": how}
        pairs.append(pair | {"source": row["source"], "license": row["license"]})
    return pairs


def _of_conversations(ctx: Context[PreferencesSpec]) -> Found:
    folder, spec = ctx.inputs["conversations"].local(), ctx.spec
    rows = {split: read_conversations(folder, split) for split in SPLITS}
    counts = {"train": spec.pairs_per_conversation, "heldout": 1}  # an interval wants independent pairs
    rejected = [
        {"id": row["id"], "reason": "no answer in words"}
        for split in SPLITS
        for row in rows[split]
        if not _is_answered(row)
    ]
    answered = {split: list(filter(_is_answered, rows[split])) for split in SPLITS}
    splits = {split: corrupted(answered[split], counts[split], spec) for split in SPLITS}
    return splits, rejected, [], len(rejected) + sum(map(len, splits.values())), {}


def _is_answered(row: Row) -> bool:
    """Whether a conversation ends with words of the assistant, and not with a call of a tool or a request."""
    last = row["messages"][-1]
    return bool(last["role"] == "assistant" and last["content"].strip())


def _of_people(spec: PreferencesSpec) -> Found:
    """What others published in a file, or what was said at an endpoint."""
    said = spec.source == "feedback"
    rows, rejected, told = read_feedback(spec) if said else _of_file(spec)
    splits, duplicates = without_duplicates(
        (_requests_held_out if said else held_out)(rows, spec.heldout_fraction, spec.seed),
        whole=lambda row: [row.get(field) for field in WHOLE],
        request=lambda row: row["prompt"],
    )
    return splits, rejected, duplicates, len(rows) + len(rejected), told | {"contradicting": contradicting(rows)}


def _requests_held_out(rows: list[Row], fraction: float, seed: int) -> dict[str, list[Row]]:
    """The rows, split by what they answer: people ask the same again, and none of that would be left to hold out."""
    requests = list(dict.fromkeys(json.dumps(row["prompt"]) for row in rows))
    chosen = held_out([{"id": request} for request in requests], fraction, seed)["heldout"]
    held = {request["id"] for request in chosen}
    parts: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        parts["heldout" if json.dumps(row["prompt"]) in held else "train"].append(row)
    return parts


def _of_file(spec: PreferencesSpec) -> tuple[list[Row], list[Row], dict[str, Any]]:
    name = Path(spec.path).name
    declared = functools.cache(lambda: licenses.normalize(spec.license) if spec.license else of_file(spec.path))

    def read(record: dict[str, Any]) -> tuple[formats.Found, Row] | str:
        license, source = of_record(record), label(record.pop("source", None)) or name
        about = {"source": source, "license": declared() if license == licenses.UNKNOWN else license}
        try:
            return formats.read(spec.format, record), about
        except NothingCompared as error:
            return str(error)

    good, bad = read_records(spec.path, read, spec.max_bad_fraction, "preferences")
    rejected = [{"id": f"{name}:{entry.number}", "line": entry.line, "reason": entry.reason} for entry in bad]
    rows: list[Row] = []
    counts: dict[str, Counter[str]] = {each: Counter() for each in ("formats", "notes", "left_out")}
    for number, found in good:
        if isinstance(found, str):
            rejected.append({"id": f"{name}:{number}", "reason": found})
            continue
        read_as, about = found
        counts["formats"][read_as.layout] += 1
        counts["notes"].update(read_as.notes)
        counts["left_out"].update(field for field in read_as.left_out if field not in FIELDS)
        several = len(read_as.rows) > 1
        for place, row in enumerate(read_as.rows, 1):
            rows.append({"id": f"{name}:{number}" + f".{place}" * several, **row, "how": "file", **about})
    return rows, rejected, {each: dict(found.most_common()) for each, found in counts.items()}


def contradicting(rows: list[Row]) -> int:
    """How many pairs prefer what another pair of the same prompt turns down."""
    orders: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        for pair in pairs_of(row) if "ranked" in row else [row] if "chosen" in row and "tie" not in row else []:
            orders[json.dumps(pair["prompt"]), pair["chosen"], pair["rejected"]] += 1
    return sum(count for (prompt, better, worse), count in orders.items() if (prompt, worse, better) in orders)
