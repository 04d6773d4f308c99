"""The corpus stage, on Ray Data: clean chunks, find duplicates by key ranges, decide, write.

Four rounds of tasks, each leaving whole files or none: a killed run goes on, and its result is the same. Between the
rounds this process decides on numbers alone: edges between duplicates become clusters, clusters become decisions.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from typing import Any

from cluster.control.runtime import connect
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.specs import CorpusSpec
from pipelines.stages.corpus import report
from pipelines.stages.corpus.chunks import Chunk, plan_chunks
from pipelines.stages.corpus.cleaning import LINES, READ, Corpus, Summary, clean
from pipelines.stages.corpus.dedup.deduplication import deduplicate, known_index
from pipelines.stages.corpus.documents import NO_DOCUMENTS
from pipelines.stages.corpus.tally import DAMAGED, Tally, add_up
from pipelines.stages.corpus.writing import SPLIT, SPLITS, write
from pipelines.stages.ordered import ordered_map

WORK = ".work"
INDEX = "index"
LATER = ("edges", "decisions", f"{LINES}/drops", "written")  # what follows from the chunks


def build(ctx: Context[CorpusSpec]) -> dict[str, Any]:
    """Write `train/`, `heldout/`, `rejected/` (Parquet), `report.json` and `report.html`.

    Raises InputError for a source that cannot be listed, for too many unreadable documents, and for an empty split.
    """
    if ctx.output.exists(report.FILE):  # killed after its last step
        return _finish(ctx.output)
    chunks = plan_chunks(ctx.spec)
    connect(ctx.scaling)
    work = ctx.output / WORK
    corpus = Corpus(ctx.spec, work, (ctx.output if ctx.spec.keep_index else work) / INDEX, ctx.output)
    known = known_index(ctx)
    summaries = _clean(ctx, corpus, chunks)
    _check_readable(ctx.spec, summaries)
    _forget_if_changed(corpus, summaries)
    found = deduplicate(ctx, corpus, [piece for summary in summaries for piece in summary.pieces], known)
    tally = _write(ctx, corpus, summaries)
    if empty := [name for name in SPLITS if name not in tally.counts.get("splits", {})]:
        flow = ", ".join(f"{step.name} {step.entered} -> {step.left}" for step in tally.steps)
        raise InputError(
            f"corpus: nothing is left for {' and '.join(empty)} of {tally.step(READ).entered} documents ({flow})",
            "Give more files, looser rules or a larger heldout_fraction.",
        )
    unread = sum(len(chunk.files) for chunk in chunks[len(summaries) :])
    for warning in report.write(ctx, tally, found, unread):
        ctx.notice(warning)
    return _finish(ctx.output)


def _clean(ctx: Context[CorpusSpec], corpus: Corpus, chunks: list[Chunk]) -> list[Summary]:
    """Clean chunks in their order, all or until the budget is full; the last one is then cut to what is left of it."""
    spec, summaries, kept_bytes = ctx.spec, list[Summary](), 0
    while len(summaries) < len(chunks) and (not spec.max_bytes or kept_bytes < spec.max_bytes):
        # Every wave is read to its end: a task that outlived this loop would write into the artifact.
        size = _wave(ctx, len(chunks), len(summaries), kept_bytes)
        wave = [{"chunk": chunk} for chunk in chunks[len(summaries) : len(summaries) + size]]
        for done in ordered_map(lambda task: {"summary": clean(corpus, task["chunk"])}, wave, ctx.scaling.data_workers):
            if spec.max_bytes and kept_bytes >= spec.max_bytes:
                continue
            summaries.append(done["summary"])
            kept_bytes += summaries[-1].kept_bytes
            documents = sum(sum(summary.documents) for summary in summaries)
            if spec.max_bytes:
                ctx.progress(min(kept_bytes, spec.max_bytes), spec.max_bytes, "bytes", documents=documents)
            else:
                ctx.progress(len(summaries), len(chunks), "chunks", documents=documents, bytes=kept_bytes)
    if spec.max_bytes and kept_bytes > spec.max_bytes:
        last = summaries.pop()
        budget_bytes = spec.max_bytes - (kept_bytes - last.kept_bytes)
        summaries.append(clean(corpus, replace(chunks[last.number], budget_bytes=budget_bytes)))
    return summaries


def _wave(ctx: Context[CorpusSpec], chunks: int, done: int, kept_bytes: int) -> int:
    """How many chunks will probably fill the budget; a guess that costs time where it is wrong, and nothing else."""
    if not ctx.spec.max_bytes:
        return chunks
    if not kept_bytes:
        return 2 * ctx.scaling.data_workers
    return math.ceil((ctx.spec.max_bytes - kept_bytes) / (kept_bytes / done))


def _check_readable(spec: CorpusSpec, summaries: list[Summary]) -> None:
    tally = add_up(summary.tally for summary in summaries)
    lost, files = tally.lost_fraction(), tally.broken_files
    if lost > spec.max_bad_fraction:
        raise InputError(
            f"{len(files)} of {tally.files} files break off or cannot be read ({lost:.0%} by their size, for nobody "
            f"knows what is lost): {report.named(files)}",
            "Get them again, take them out, or raise corpus.max_bad_fraction.",
        )
    damaged, entered = tally.totals.get(DAMAGED, 0), tally.step(READ).entered
    if damaged > spec.max_bad_fraction * entered:
        shown = [example for name, of in tally.examples.items() if name.startswith(f"{READ}/") for example in of]
        first = min(example for example in shown if example.note.partition(":")[0] not in NO_DOCUMENTS)
        raise InputError(
            f"{damaged} of {entered} documents cannot be read, such as {first.id} ({first.note})",
            "Mend them, or raise corpus.max_bad_fraction.",
        )


def _forget_if_changed(corpus: Corpus, summaries: list[Summary]) -> None:
    """What a killed run did after cleaning counts only if it saw the same files."""
    listing = hashlib.sha256("".join(summary.listing for summary in summaries).encode()).hexdigest().encode()
    if corpus.work.exists("listing") and corpus.work.read_bytes("listing") != listing:
        for name in LATER:
            corpus.work.remove(name)
        for name in (*SPLITS, "rejected"):
            corpus.output.remove(name)
    corpus.work.write_bytes("listing", listing)


def _write(ctx: Context[CorpusSpec], corpus: Corpus, summaries: list[Summary]) -> Tally:
    tally = add_up(summary.tally for summary in summaries)
    tasks = [{"summary": summary} for summary in summaries]
    for number, written in enumerate(
        ordered_map(lambda task: {"tally": write(corpus, task["summary"])}, tasks, ctx.scaling.data_workers), 1
    ):
        tally.add(written["tally"])
        ctx.progress(number, len(tasks), "chunks", documents=tally.step(SPLIT).entered)
    return tally


def _finish(output: Location) -> dict[str, Any]:
    """Remove the intermediate files and return the stage's metrics."""
    (output / WORK).remove()
    found = report.load(output)
    return {key: found[key] for key in ("documents", "bytes", "flow", "licenses")}
