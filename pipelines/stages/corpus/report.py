"""The report of a corpus: what came in, what became of it and why, as JSON and as a page that needs nothing else."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import asdict
from typing import Any

import msgspec

from cluster.core.context import Context
from cluster.core.specs import spec as specs
from cluster.core.storage.location import Location
from pipelines.specs import CorpusSpec
from pipelines.stages.corpus.dedup.deduplication import Found
from pipelines.stages.corpus.tally import LIKELY_ENCODING, REPAIRED, REPLACED, BrokenFile, Shown, Step, Tally, ranked

FILE, PAGE = "report.json", "report.html"
NAMED_FILES = 8  # in a message
PLACE = "/*REPORT*/"


def write(ctx: Context[CorpusSpec], tally: Tally, found: Found, unread_files: int) -> list[str]:
    """Write the page, and after it the JSON, whose presence says that the corpus is whole; returns its warnings."""
    described = describe(ctx, tally, found, unread_files)
    data = json.dumps(described, indent=1, ensure_ascii=False)
    template = importlib.resources.files("pipelines.stages.corpus").joinpath(PAGE).read_text()
    # Within a script element only its end tag could end it early.
    ctx.output.write_bytes(PAGE, template.replace(PLACE, data.replace("</", "<\\/")).encode())
    ctx.output.write_bytes(FILE, data.encode())
    return list(described["warnings"])


def load(output: Location) -> dict[str, Any]:
    """The report of a finished corpus."""
    return dict(json.loads(output.read_bytes(FILE)))


def warnings(tally: Tally, found: Found) -> list[str]:
    """What is not wrong enough to refuse the corpus, and too strange to keep silent about."""
    told = []
    if files := tally.broken_files:
        told.append(f"{len(files)} of {tally.files} files break off, and what follows is lost: {named(files)}")
    if replaced := tally.totals["replacement_characters"]:
        likely = ranked(tally.counts.get(LIKELY_ENCODING, {}))
        looks = f" (some look like {', '.join(list(likely)[:3])})" if likely else ""
        told.append(
            f"{replaced} characters of {tally.totals[REPLACED]} documents could not be read and are U+FFFD{looks}; for "
            "texts and JSON lines whose encoding is known, declare it as the source's `encoding`"
        )
    if repaired := tally.totals.get(REPAIRED, 0):
        told.append(f"{repaired} records of web archives have a wrong Content-Length; they end where the next begins")
    if distant := found.duplicates.distant:
        largest = max(found.duplicates.clusters, key=lambda cluster: cluster.distant)
        told.append(
            f"near-duplicates: {distant} documents go that are not like the one that stays for them: a chain of others "
            f"leads to it. {largest.id} stays for {largest.size - 1}, {largest.distant} of them not like it. See "
            "`clusters` in report.json. More corpus.minhash.rows join less; near_duplicates: keep drops none"
        )
    same_ids = found.same_ids
    if same_ids.documents:
        told.append(
            f"{same_ids.documents} documents have an id that another one has, such as {', '.join(same_ids.examples)}; "
            "all are kept"
        )
    return told


def named(files: list[BrokenFile]) -> str:
    """Some of the files that break off, each with where and why."""
    told = [f"{file.name} ({f'after record {file.read}: ' if file.read else ''}{file.reason})" for file in files]
    more = f" and {len(told) - NAMED_FILES} more" if len(told) > NAMED_FILES else ""
    return "; ".join(told[:NAMED_FILES]) + more


def describe(ctx: Context[CorpusSpec], tally: Tally, found: Found, unread_files: int) -> dict[str, Any]:
    """The report as plain data. Raises AssertionError where documents were lost or made."""
    return {
        "name": ctx.name,
        "fingerprint": ctx.fingerprint,
        "spec": specs.fields(ctx.written or ctx.spec),
        "flow": {
            "in": tally.steps[0].entered,
            **{name: tally.counts["splits"][name] for name in ("train", "heldout")},
            "rejected": sum(step.rejected for step in tally.steps),
            "duplicates": sum(step.duplicates for step in tally.steps),
        },
        "steps": steps(tally),
        "unread_files": unread_files,
        "warnings": warnings(tally, found),
        "same_ids": found.same_ids._asdict(),
        "broken_files": [msgspec.to_builtins(file) for file in tally.broken_files],
        "reasons": {step: ranked(reasons) for step, reasons in tally.reasons.items()},
        "examples": {where: [_shown(example) for example in examples] for where, examples in tally.examples.items()},
        "documents": {name: tally.counts["splits"][name] for name in ("train", "heldout")},
        "bytes": {name: tally.totals[f"{name}_bytes"] for name in ("train", "heldout")},
        "characters": tally.totals["characters"],
        "replacement_characters": tally.totals["replacement_characters"],
        **{what: ranked(tally.counts[what]) for what in ("licenses", "sources", "languages", "encodings")},
        # Bin b holds documents of 2^(b-1) to 2^b - 1 characters.
        "length_bins": {
            int(bits): tally.counts["characters"][bits] for bits in sorted(tally.counts["characters"], key=int)
        },
        "clusters": [asdict(cluster) for cluster in found.duplicates.clusters],
        "distant_duplicates": found.duplicates.distant,
        "samples": [_shown(sample) for sample in tally.samples],
    }


def steps(tally: Tally) -> list[dict[str, Any]]:
    """The steps in order; in each `in` = `out` + `rejected` + `duplicates`, and `out` is what enters the next."""
    for step, following in zip(tally.steps, tally.steps[1:], strict=False):
        assert step.left == following.entered, f"documents were lost or made: {step} then {following}"
    return [_step(step) for step in tally.steps]


def _step(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "in": step.entered,
        "out": step.left,
        "rejected": step.rejected,
        "duplicates": step.duplicates,
        "changed": step.changed,
    }


def _shown(shown: Shown) -> dict[str, str]:
    return {"id": shown.id, "note": shown.note, "text": shown.text}
