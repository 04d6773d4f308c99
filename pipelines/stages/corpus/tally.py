"""What a corpus counts: the flow of documents through every step, and distributions of what stays.

Tallies of tasks are added up in any order with the same result. Every document that came in is found again: it went on,
was rejected with a reason, or was a duplicate.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

import msgspec

from pipelines.stages.corpus.documents import Document, keyed_hash

SAMPLES = 24
LIKELY_ENCODING = "likely_encoding"  # the encoding that a text with U+FFFD may be in
EXAMPLES = 4  # of a reason
EXCERPT_CHARACTERS = 1200
REJECTED_EXCERPT_CHARACTERS = 300
WRONG_LENGTH = "Content-Length is "  # begins what a reader of web archives says of a record that it repaired
DAMAGED, REPLACED, REPAIRED = "damaged", "replaced_documents", "repaired"  # in the totals


class Step(msgspec.Struct):
    """One step's count: `entered` = gone on + rejected + duplicates; `changed` of those that went on or not."""

    name: str
    entered: int = 0
    rejected: int = 0
    duplicates: int = 0
    changed: int = 0

    @property
    def left(self) -> int:
        return self.entered - self.rejected - self.duplicates


class Shown(msgspec.Struct, order=True):
    """A document to look at: those with the smallest keys of all are a fair sample, however the work was divided."""

    key: int
    id: str
    text: str
    note: str = ""


class BrokenFile(msgspec.Struct, order=True):
    """A file that was not read to its end: what follows is lost, and nobody knows how much that is."""

    name: str
    size_bytes: int  # as it lies there, compressed or not; -1 where that is not known
    read: int  # documents before it broke off
    reason: str


class Tally(msgspec.Struct):
    """Counts of one task, or of all."""

    steps: list[Step] = []
    reasons: dict[str, dict[str, int]] = {}  # of a step
    examples: dict[str, list[Shown]] = {}  # of `step/reason`
    samples: list[Shown] = []
    counts: dict[str, dict[str, int]] = {}  # of documents, by split, license, language, ...
    totals: dict[str, int] = {}
    files: int = 0  # that were begun, ranges of large ones each
    file_bytes: int = 0
    broken_files: list[BrokenFile] = []

    def step(self, name: str) -> Step:
        """The step of this name, added at the end where it is new."""
        for step in self.steps:
            if step.name == name:
                return step
        self.steps.append(Step(name))
        return self.steps[-1]

    def reject(self, step: str, id: str, reason: str, text: str) -> None:
        """Count a rejection and keep it as an example if its key is among the smallest."""
        self.step(step).rejected += 1
        word = reason.partition(":")[0]
        _count(self.reasons.setdefault(step, {}), {word: 1})
        shown = Shown(keyed_hash(0, "example", id), id, text[:REJECTED_EXCERPT_CHARACTERS], reason)
        examples = self.examples.setdefault(f"{step}/{word}", [])
        self.examples[f"{step}/{word}"] = heapq.nsmallest(EXAMPLES, [*examples, shown])

    def damage(self) -> None:
        """Count a record that is broken, and not merely no document."""
        _count(self.totals, {DAMAGED: 1})

    def lost_fraction(self) -> float:
        """The share of the files' bytes that are in files which break off. Such a file counts whole, and as one of the
        mean size at least: what is gone of it might have been as much.
        """
        broken_bytes = [max(0, file.size_bytes) for file in self.broken_files]
        sound = self.files - len(broken_bytes)
        sound_bytes = self.file_bytes - sum(broken_bytes)
        mean_bytes = sound_bytes / sound if sound else 0.0
        lost_bytes = sum(max(size, mean_bytes) for size in broken_bytes)
        if not lost_bytes:
            return len(broken_bytes) / max(1, self.files)
        return lost_bytes / (lost_bytes + sound_bytes)

    def keep(self, document: Document, split: str) -> None:
        """Count a document of the finished corpus."""
        text = document.text
        for what, value in (
            ("splits", split),
            ("licenses", document.license),
            ("sources", document.source),
            ("languages", str(document.metadata.get("language", "")) or "unknown"),
            ("characters", str(len(text).bit_length())),
            ("encodings", str(document.metadata.get("encoding", "utf-8"))),
            (LIKELY_ENCODING, str(document.metadata.get(LIKELY_ENCODING, ""))),
        ):
            if value:
                _count(self.counts.setdefault(what, {}), {value: 1})
        broken = text.count("\ufffd")
        sizes = {f"{split}_bytes": len(text.encode()), "characters": len(text), "replacement_characters": broken}
        _count(self.totals, sizes)
        for what, is_so in (
            (REPLACED, broken > 0),
            (REPAIRED, str(document.metadata.get("repaired", "")).startswith(WRONG_LENGTH)),
        ):
            if is_so:
                _count(self.totals, {what: 1})
        shown = Shown(keyed_hash(0, "sample", document.id), document.id, "", document.source)
        if len(self.samples) < SAMPLES or shown < self.samples[-1]:
            shown.text = text[:EXCERPT_CHARACTERS]
            self.samples = heapq.nsmallest(SAMPLES, [*self.samples, shown])

    def add(self, other: Tally) -> None:
        """Add another tally; its steps come in the order in which they were first seen."""
        for step in other.steps:
            mine = self.step(step.name)
            for name in ("entered", "rejected", "duplicates", "changed"):
                setattr(mine, name, getattr(mine, name) + getattr(step, name))
        for mine_of, theirs in ((self.reasons, other.reasons), (self.counts, other.counts)):
            for name, counts in theirs.items():
                _count(mine_of.setdefault(name, {}), counts)
        for name, examples in other.examples.items():
            self.examples[name] = heapq.nsmallest(EXAMPLES, [*self.examples.get(name, []), *examples])
        self.samples = heapq.nsmallest(SAMPLES, [*self.samples, *other.samples])
        _count(self.totals, other.totals)
        self.files += other.files
        self.file_bytes += other.file_bytes
        self.broken_files = sorted([*self.broken_files, *other.broken_files])


def add_up(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies."""
    whole = Tally()
    for tally in tallies:
        whole.add(tally)
    return whole


def ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts, the largest first, ties by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _count(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, number in more.items():
        counts[name] = counts.get(name, 0) + number
