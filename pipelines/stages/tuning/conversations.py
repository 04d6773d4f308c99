"""The conversations stage: requests and answers to learn from, split into train and held-out, as JSON lines.

The documents of a corpus are cut in parallel on Ray Data; what remains is sorted and compared by one process, which
holds all conversations: enough for millions, not for more.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cluster.control.runtime import connect
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.specs import ConversationsSpec
from pipelines.stages import licenses
from pipelines.stages.corpus.chunks import keyed_hash
from pipelines.stages.ordered import ordered_map
from pipelines.stages.tuning import docstrings
from pipelines.stages.tuning.declared import of_file, of_record
from pipelines.stages.tuning.formats import FORMATS, checked, is_unicode
from pipelines.stages.tuning.records import read_records

SPLITS = ("train", "heldout")

Row = dict[str, Any]


def build(ctx: Context[ConversationsSpec]) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl and report.json. Raises InputError for a bad source."""
    spec = ctx.spec
    spec.check_inputs(ctx.inputs)
    splits, rejected = _of_corpus(ctx) if spec.source == "docstrings" else _of_file(spec)
    taken_in = sum(map(len, splits.values())) + len(rejected)
    for split in SPLITS:
        splits[split].sort(key=lambda row: (keyed_hash(spec.seed, "order", row["id"]), row["id"]))
    splits, duplicates = without_duplicates(
        splits, whole=lambda row: row["messages"], request=lambda row: row["messages"][:-1]
    )
    unique = len(splits["train"])
    splits["train"] = splits["train"][: spec.max_conversations or None]
    flow = {
        "in": taken_in,
        **{split: len(splits[split]) for split in SPLITS},
        "rejected": len(rejected),
        "duplicates": len(duplicates),
        "not_sampled": unique - len(splits["train"]),
    }
    assert sum(flow.values()) == 2 * taken_in, f"conversations were lost or made: {flow}"
    if not all(splits.values()):
        raise InputError(
            f"conversations: nothing is left for {' and '.join(s for s in SPLITS if not splits[s])}: {flow}",
            "Give more text, wider limits or a larger held-out fraction.",
        )
    report = {
        "flow": flow,
        "reasons": _ranked(Counter(row["reason"].partition(":")[0] for row in rejected)),
        "licenses": _ranked(Counter(row["license"] for split in SPLITS for row in splits[split])),
        "sources": _ranked(Counter(row["source"] for split in SPLITS for row in splits[split])),
    }
    for split in SPLITS:
        write_lines(ctx.output, f"{split}.jsonl", splits[split])
    write_lines(ctx.output, "rejected.jsonl", rejected + duplicates)
    ctx.output.write_bytes("report.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    return {name: report[name] for name in ("flow", "reasons", "licenses")}


def read_conversations(folder: Path, split: str) -> list[Row]:
    """The rows of a split (`id`, `messages`, `source`, `license`) of a conversations folder, in their order."""
    return read_lines(Location(folder), f"{split}.jsonl")


def without_duplicates(
    splits: dict[str, list[Row]], whole: Callable[[Row], Any], request: Callable[[Row], Any]
) -> tuple[dict[str, list[Row]], list[Row]]:
    """The splits without rows that are equal as a `whole`, and without held-out ones whose `request` is in train."""
    seen: dict[str, str] = {}
    requests: dict[str, str] = {}
    kept: dict[str, list[Row]] = {split: [] for split in SPLITS}
    duplicates: list[Row] = []
    for split in SPLITS:  # train first: it wins over held-out
        for row in splits[split]:
            twin = seen.setdefault(json.dumps(whole(row)), row["id"])
            asked = json.dumps(request(row))
            if split == "heldout":
                twin = requests.get(asked, twin)
            else:
                requests.setdefault(asked, row["id"])
            if twin == row["id"]:
                kept[split].append(row)
            else:
                duplicates.append({"id": row["id"], "reason": "duplicate", "duplicate_of": twin})
    return kept, duplicates


def read_lines(place: Location, name: str) -> list[Row]:
    return [json.loads(line) for line in place.read_bytes(name).splitlines()]


def write_lines(output: Location, name: str, rows: list[Row]) -> None:
    output.write_bytes(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _of_corpus(ctx: Context[ConversationsSpec]) -> tuple[dict[str, list[Row]], list[Row]]:
    spec, corpus = ctx.spec, ctx.inputs["corpus"].location
    connect(ctx.scaling)
    tasks = [
        {"split": split, "part": f"{split}/{name}"}
        for split in SPLITS
        for name in corpus.names(split)
        if name.endswith(".parquet")
    ]
    splits: dict[str, list[Row]] = {split: [] for split in SPLITS}
    rejected: list[Row] = []
    cut = ordered_map(lambda task: cut_part(corpus, task["part"], spec), tasks, ctx.scaling.data_workers)
    for number, (task, found) in enumerate(zip(tasks, cut, strict=True), 1):
        splits[task["split"]] += found["conversations"]
        rejected += found["rejected"]
        ctx.progress(number, len(tasks), "parts", conversations=sum(map(len, splits.values())))
    return splits, rejected


def cut_part(corpus: Location, part: str, spec: ConversationsSpec) -> dict[str, list[Row]]:
    """The conversations of one part of a corpus, and its documents and functions that make none."""
    found: list[Row] = []
    rejected: list[Row] = []
    with corpus.open(part) as source:
        documents = pq.read_table(source, columns=["id", "text", "source", "license"]).to_pylist()
    for document in documents:
        try:
            tree = docstrings.parse(document["text"])
        except docstrings.Unfit as error:
            rejected.append({"id": document["id"], "reason": str(error)})
            continue
        lines = docstrings.LINE_ENDS.split(document["text"])
        license = licenses.normalize(document["license"])
        for function in docstrings.documented_functions(tree):
            name = f"{document['id']}:{function.lineno}"
            try:
                request, answer = docstrings.request_and_answer(function, lines)
                _check_lengths(request, answer, spec)
            except docstrings.Unfit as error:
                rejected.append({"id": name, "reason": str(error)})
                continue
            messages = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
            found.append({"id": name, "messages": messages, "source": document["source"], "license": license})
    return {"conversations": found, "rejected": rejected}


def _check_lengths(request: str, answer: str, spec: ConversationsSpec) -> None:
    for name, text, limit in (("request", request, spec.max_prompt_chars), ("answer", answer, spec.max_answer_chars)):
        if len(text) > limit:
            raise docstrings.Unfit(f"{name} too long: {len(text)} characters")


def _of_file(spec: ConversationsSpec) -> tuple[dict[str, list[Row]], list[Row]]:
    name = Path(spec.path).name
    declared = functools.cache(lambda: licenses.normalize(spec.license) if spec.license else of_file(spec.path))

    def read(record: dict[str, Any]) -> Row:
        messages = checked(FORMATS[spec.format](record))
        license = of_record(record)
        return {
            "messages": messages,
            "source": label(record.get("source")) or name,
            "license": declared() if license == licenses.UNKNOWN else license,
        }

    good, bad = read_records(spec.path, read, spec.max_bad_fraction, "conversations")
    rows = [{"id": f"{name}:{number}", **row} for number, row in good]
    rejected = [{"id": f"{name}:{entry.number}", "line": entry.line, "reason": entry.reason} for entry in bad]
    return held_out(rows, spec.heldout_fraction, spec.seed), rejected


def held_out(rows: list[Row], fraction: float, seed: int) -> dict[str, list[Row]]:
    """The rows, split: the first in the order of a hash are held out, at least one."""
    rows = sorted(rows, key=lambda row: (keyed_hash(seed, "heldout", row["id"]), row["id"]))
    count = max(1, round(fraction * len(rows)))
    return {"heldout": rows[:count], "train": rows[count:]}


def label(value: Any) -> str:
    return value if isinstance(value, str) and is_unicode(value) else ""


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
