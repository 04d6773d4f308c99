"""The stage that has a model write conversations: what `sft` takes, with the origin of every record.

Answers are written as they come (asked.jsonl, with the prompts): a run that was killed asks for the others only.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from cluster.core.context import Context
from cluster.core.errors import InputError
from pipelines.specs import SyntheticSpec
from pipelines.stages import licenses
from pipelines.stages.corpus.documents import keyed_hash
from pipelines.stages.generation.asking import Asker
from pipelines.stages.making.collection import Gathered, Row
from pipelines.stages.making.makers.maker import Means
from pipelines.stages.tuning.conversations import write_lines


def build(ctx: Context[SyntheticSpec]) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl, report.json and asked.jsonl.

    Raises InputError for a file that cannot be used and where nothing is left, and what `Asker.ask` raises.
    """
    spec = ctx.spec
    asker = Asker(ctx, spec.endpoint, spec.seed)
    gathered = Gathered(spec, licenses.normalize(spec.license))

    def told(kept: int, wanted: int) -> None:
        ctx.progress(kept, wanted, "tasks", **asker.told())

    spec.maker.make(
        Means(
            ask=lambda requests: asker.ask(requests, progress=not spec.maker.counts),
            collection=gathered,
            seed=spec.seed,
            progress=told,
            notice=ctx.notice,
        )
    )
    rows = gathered.rows
    if len(rows) < 2:
        raise InputError(
            f"synthetic: {len(rows)} of {len(rows) + len(gathered.rejected)} can be kept: {gathered.commonest()}",
            "Read rejected.jsonl and asked.jsonl, and take a stronger model or wider limits.",
        )
    splits = split(rows, gathered.topics, spec.heldout_fraction, spec.seed)
    report = {
        "flow": {
            "in": len(rows) + len(gathered.rejected),
            **{name: len(found) for name, found in splits.items()},
            "rejected": len(gathered.rejected),
        },
        "reasons": dict(gathered.reasons.most_common()),
        "licenses": dict(Counter(row["license"] for row in rows)),
        "sources": dict(Counter(row["source"] for row in rows).most_common()),
        "asked": asker.totals(),
    }
    for name, found in splits.items():
        write_lines(ctx.output, f"{name}.jsonl", found)
    write_lines(ctx.output, "rejected.jsonl", gathered.rejected)
    ctx.output.write_bytes("report.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    return {name: report[name] for name in ("flow", "reasons", "licenses", "asked")}


def split(rows: list[Row], topics: dict[str, str], fraction: float, seed: int) -> dict[str, list[Row]]:
    """Train and held-out rows in the order of a hash: the first topics, as many as begin within the fraction, and at
    least one, are held out; what has no topic is one of its own."""
    topic = {row["id"]: topics.get(row["id"], f"\0{row['id']}") for row in rows}
    counts = Counter(topic.values())
    heldout: set[str] = set()
    left = fraction * len(rows)
    for name in sorted(counts, key=lambda name: (keyed_hash(seed, "heldout", name), name)):
        if heldout and (left <= 0 or len(heldout) + 1 == len(counts)):
            break
        heldout.add(name)
        left -= counts[name]
    rows = sorted(rows, key=lambda row: (keyed_hash(seed, "order", row["id"]), row["id"]))
    return {
        "train": [row for row in rows if topic[row["id"]] not in heldout],
        "heldout": [row for row in rows if topic[row["id"]] in heldout],
    }
