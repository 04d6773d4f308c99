"""The report of a corpus: what came in, what became of it and why, as JSON and as a page that needs nothing else."""

from __future__ import annotations

import importlib.resources
import json
from dataclasses import asdict
from typing import Any

from cluster import spec as specs
from cluster.context import Context
from cluster.location import Location
from cluster.specs import CorpusSpec
from pipelines.corpus.decisions import Duplicates
from pipelines.corpus.tally import Shown, Step, Tally, ranked

FILE, PAGE = "report.json", "report.html"
PLACE = "/*REPORT*/"


def write(ctx: Context[CorpusSpec], tally: Tally, duplicates: Duplicates, unread_files: int) -> None:
    """Write the page, and after it the JSON, whose presence says that the corpus is whole."""
    found = describe(ctx, tally, duplicates, unread_files)
    data = json.dumps(found, indent=1, ensure_ascii=False)
    template = importlib.resources.files("pipelines.corpus").joinpath(PAGE).read_text()
    # Within a script element only its end tag could end it early.
    ctx.output.write_bytes(PAGE, template.replace(PLACE, data.replace("</", "<\\/")).encode())
    ctx.output.write_bytes(FILE, data.encode())


def load(output: Location) -> dict[str, Any]:
    """The report of a finished corpus."""
    return dict(json.loads(output.read_bytes(FILE)))


def describe(ctx: Context[CorpusSpec], tally: Tally, duplicates: Duplicates, unread_files: int) -> dict[str, Any]:
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
        "clusters": [asdict(cluster) for cluster in duplicates.clusters],
        "distant_duplicates": duplicates.distant,
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
