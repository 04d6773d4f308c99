"""The preferences stage: pairs of a better and a worse answer to one request, as JSON lines.

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
from pipelines.stages.alignment.corruption import corrupt
from pipelines.stages.alignment.pairs import pair
from pipelines.stages.tuning.conversations import (
    SPLITS,
    Row,
    held_out,
    read_conversations,
    read_lines,
    without_duplicates,
    write_lines,
)
from pipelines.stages.tuning.declared import of_file, of_record
from pipelines.stages.tuning.intake import label
from pipelines.stages.tuning.records import read_records

# The splits, what was rejected, what was there twice, and how many records there were.
Found = tuple[dict[str, list[Row]], list[Row], list[Row], int]

FOREIGN = "foreign"
FOREIGN_REACH = 16  # a foreign answer is one of the next so many shorter or longer ones


def build(ctx: Context[PreferencesSpec]) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl and report.json. Raises InputError for a bad source."""
    ctx.spec.check_inputs(ctx.inputs)
    found = _of_file(ctx.spec) if ctx.spec.source == "file" else _of_conversations(ctx)
    splits, rejected, duplicates, records = found
    flow = {
        "in": records,
        **{split: len(splits[split]) for split in SPLITS},
        "rejected": len(rejected),
        "duplicates": len(duplicates),
    }
    assert sum(flow.values()) == 2 * records, f"pairs were lost or made: {flow}"
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
    }
    for split in SPLITS:
        write_lines(ctx.output, f"{split}.jsonl", splits[split])
    write_lines(ctx.output, "rejected.jsonl", rejected + duplicates)
    ctx.output.write_bytes("report.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    return report


def read_preferences(folder: Path, split: str) -> list[Row]:
    """The rows of a split (`id`, `prompt`, `chosen`, `rejected`, `how`, `source`, `license`) of a preferences folder,
    in their order. Older folders have neither source nor licence."""
    return read_lines(Location(folder), f"{split}.jsonl")


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
    return splits, rejected, [], len(rejected) + sum(map(len, splits.values()))


def _is_answered(row: Row) -> bool:
    """Whether a conversation ends with words of the assistant, and not with a call of a tool or a request."""
    last = row["messages"][-1]
    return bool(last["role"] == "assistant" and last["content"].strip())


def _of_file(spec: PreferencesSpec) -> Found:
    name = Path(spec.path).name
    declared = functools.cache(lambda: licenses.normalize(spec.license) if spec.license else of_file(spec.path))

    def read(record: dict[str, Any]) -> Row:
        license = of_record(record)
        return pair(record) | {
            "source": label(record.get("source")) or name,
            "license": declared() if license == licenses.UNKNOWN else license,
        }

    good, bad = read_records(spec.path, read, spec.max_bad_fraction, "preferences")
    rows = [{"id": f"{name}:{number}", **found, "how": "file"} for number, found in good]
    rejected = [{"id": f"{name}:{entry.number}", "line": entry.line, "reason": entry.reason} for entry in bad]
    splits, duplicates = without_duplicates(
        held_out(rows, spec.heldout_fraction, spec.seed),
        whole=lambda row: [row["prompt"], row["chosen"], row["rejected"]],
        request=lambda row: row["prompt"],
    )
    return splits, rejected, duplicates, len(good) + len(bad)
