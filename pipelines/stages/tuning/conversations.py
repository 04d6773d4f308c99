"""The conversations stage: requests and answers to learn from, split into train and held-out, as JSON lines.

The documents of a corpus are cut in parallel on Ray Data; files of others are streamed. What is split, ordered and
compared are hashes (pipelines/stages/tuning/shelf.py), so that millions of conversations fit.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
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
from pipelines.stages.tuning.conversation import BadRecord, Conversation
from pipelines.stages.tuning.formats import AUTO
from pipelines.stages.tuning.intake import Intake, Refused, Taken
from pipelines.stages.tuning.shelf import HELDOUT, TRAIN, UNDECIDED, Shelf

SPLITS = ("train", "heldout")
REJECTED = "rejected.jsonl"
VALIDATION = "validation/"  # before the ids of what the user's own validation file holds
SHOWN = 50  # of the names in a table of the report
TOLD_EVERY = 10_000

Row = dict[str, Any]


def build(ctx: Context[ConversationsSpec]) -> dict[str, Any]:
    """Write train.jsonl, heldout.jsonl, rejected.jsonl and report.json. Raises InputError for a bad source."""
    spec = ctx.spec
    spec.check_inputs(ctx.inputs)
    with ctx.scratch() as folder, Shelf(folder, spec.seed) as shelf, (folder / REJECTED).open("w+b") as refused:
        reasons: Counter[str] = Counter()
        told: dict[str, Any] = {}
        for found, split in _of_corpus(ctx) if spec.source == "docstrings" else _of_files(ctx, told):
            if isinstance(found, Taken):
                try:
                    shelf.add(found, split)
                    continue
                except BadRecord as error:
                    found = Refused(found.id, 0, str(error))
            reasons[found.reason.partition(":")[0]] += 1
            row = {key: value for key, value in found._asdict().items() if value}
            refused.write(msgspec.json.encode(row) + b"\n")
        return _written(ctx, shelf, reasons, refused, told)


def _written(ctx: Context[ConversationsSpec], shelf: Shelf, reasons: Counter[str], refused: Any, told: Row) -> Row:
    """Split, order and write what is on the shelf; the report."""
    shelf.split(ctx.spec.heldout_fraction)
    (train, heldout), twins = shelf.sorted()
    unique = len(train)
    train = train[: ctx.spec.max_conversations or None]
    duplicates = (twins >= 0).nonzero()[0]
    flow = {
        "in": len(shelf) + reasons.total(),
        "train": len(train),
        "heldout": len(heldout),
        "rejected": reasons.total(),
        "duplicates": len(duplicates),
        "not_sampled": unique - len(train),
    }
    assert sum(flow.values()) == 2 * flow["in"], f"conversations were lost or made: {flow}"
    empty = [split for split, rows in zip(SPLITS, (train, heldout), strict=True) if not len(rows)]
    if empty:
        raise InputError(
            f"conversations: nothing is left for {' and '.join(empty)}: {flow}",
            "Give more text, wider limits or a larger held-out fraction; where all conversations belong together, a "
            "file of your own in validation_path.",
        )
    for split, rows in zip(SPLITS, (train, heldout), strict=True):
        with ctx.output.open(f"{split}.jsonl", "wb") as file:
            file.writelines(shelf.lines(rows))
    with ctx.output.open(REJECTED, "wb") as file:
        refused.seek(0)
        file.writelines(refused)
        for row in duplicates.tolist():
            twin = {"id": shelf.id(row), "reason": "duplicate", "duplicate_of": shelf.id(int(twins[row]))}
            file.write(msgspec.json.encode(twin) + b"\n")
    counted = shelf.counted([train, heldout])
    report = {
        "flow": flow,
        "reasons": _ranked(reasons),
        **told,
        "heldout_answers": shelf.trained_twice(train, heldout),
        **{name: _ranked(counts) for name, counts in counted.items()},
    }
    ctx.output.write_bytes("report.json", (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode())
    return {name: report[name] for name in ("flow", "reasons", "licenses", "formats") if name in report}


def _of_files(ctx: Context[ConversationsSpec], told: Row) -> Iterator[tuple[Taken | Refused, int]]:
    """What the spec's files hold, and into which split it goes; what there is to tell of them is put into `told`."""
    spec = ctx.spec
    sources = [(Intake(spec, spec.path, spec.hub_split), UNDECIDED)]
    if spec.validation_path:
        own = Intake(spec, spec.validation_path, spec.validation_split, VALIDATION)
        sources = [(sources[0][0], TRAIN), (own, HELDOUT)]
    number = 0
    for intake, split in sources:
        for each in intake:
            number += 1
            if number % TOLD_EVERY == 0:
                ctx.progress(number, number, "conversations")
            yield each, split
        tell(ctx, intake)
    told |= merged([intake for intake, _ in sources])


def tell(ctx: Context[ConversationsSpec], intake: Intake) -> None:
    """Say what a path was taken for, and what else somebody should know of it."""
    if ctx.spec.format == AUTO and not ctx.spec.columns:
        known = ", ".join(f"{name} ({count})" for name, count in _ranked(intake.formats).items())
        ctx.notice(f"{intake.path}: taken for {known or 'no format'} by what is in it")
    for name, why in list(intake.set_aside.items())[:3]:
        ctx.notice(f"{intake.path}: {name} is left out: {why}")
    if len(intake.set_aside) > 3:
        ctx.notice(f"{intake.path}: {len(intake.set_aside)} files in all are left out, see report.json")
    strange = [
        (note, count) for note, count in intake.notes.most_common() if note.startswith(("control token", "blank"))
    ]
    for note, count in strange[:3]:
        ctx.notice(f"{intake.path}: {note}, in {count} conversations (conversations.control_tokens, .replace)")


def merged(intakes: list[Intake]) -> Row:
    """The figures of what was read, of all paths together."""
    total = {
        name: sum((getattr(intake, name) for intake in intakes), Counter[str]())
        for name in ("formats", "notes", "left_out")
    }
    aside = {name: why for intake in intakes for name, why in intake.set_aside.items()}
    return {
        "records": sum(intake.records for intake in intakes),
        "files": sum(len(intake.files) for intake in intakes),
        **{name: _ranked(counts) for name, counts in total.items()},
        "set_aside": aside,
    }


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


def _of_corpus(ctx: Context[ConversationsSpec]) -> Iterator[tuple[Taken | Refused, int]]:
    spec, corpus = ctx.spec, ctx.inputs["corpus"].location
    connect(ctx.scaling)
    tasks = [
        {"split": split, "part": f"{split}/{name}"}
        for split in SPLITS
        for name in corpus.names(split)
        if name.endswith(".parquet")
    ]
    cut = ordered_map(lambda task: cut_part(corpus, task["part"], spec), tasks, ctx.scaling.data_workers)
    conversations = 0
    for number, (task, found) in enumerate(zip(tasks, cut, strict=True), 1):
        for row in found["conversations"]:
            conversations += 1
            whole: Conversation = {"messages": row["messages"]}
            yield Taken(row["id"], 0, whole, row["source"], row["license"]), SPLITS.index(task["split"])
        for row in found["rejected"]:
            yield Refused(row["id"], 0, row["reason"]), TRAIN
        ctx.progress(number, len(tasks), "parts", conversations=conversations)


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


def held_out(rows: list[Row], fraction: float, seed: int) -> dict[str, list[Row]]:
    """The rows, split: the first in the order of a hash are held out, at least one."""
    rows = sorted(rows, key=lambda row: (keyed_hash(seed, "heldout", row["id"]), row["id"]))
    count = max(1, round(fraction * len(rows)))
    return {"heldout": rows[:count], "train": rows[count:]}


def _ranked(counts: Counter[str]) -> dict[str, int]:
    """The commonest first, the many that are left together."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[SHOWN:])
    return dict(ranked[:SHOWN]) | ({f"({len(ranked) - SHOWN} others)": rest} if rest else {})
