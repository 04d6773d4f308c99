"""Which documents stay, and where: exact duplicates, budget, held-out split, near-duplicates, order.

Decided on the summaries of the chunks alone, in their seeded order, so that the outcome depends on the files and the
spec and on nothing else. Of exact duplicates (equal but for white space) the first in that order is kept; of a
held-out document and its near-duplicate in train, the one in train.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cluster.location import Location
from cluster.specs import CorpusSpec
from pipelines.corpus.chunks import UNREADABLE, keyed_hash, pick
from pipelines.corpus.near_dedup import Hashes, NearIndex, shingles

SPLITS = ("train", "heldout")
EXACT_DUPLICATE, NEAR_DUPLICATE = "exact_duplicate", "near_duplicate"
CACHED_SHINGLES = 4096  # documents; the texts of a cluster of look-alikes are asked for again and again


@dataclass
class Document:
    """A document that may stay: where its text lies (`chunk`, `row`), and what deciding needs of it."""

    chunk: int
    row: int
    id: str
    source: str
    license: str
    size_bytes: int
    content: str
    bands: list[int]


@dataclass
class Selection:
    """The outcome. `files` = documents of both splits + rejected (duplicates included) + not sampled."""

    splits: dict[str, list[Document]] = field(default_factory=lambda: {name: [] for name in SPLITS})
    rejected: list[dict[str, str]] = field(default_factory=list)
    files: int = 0
    unread: int = 0
    over_budget: int = 0

    @property
    def not_sampled(self) -> int:
        return self.unread + self.over_budget

    def _reasons(self) -> Counter[str]:
        return Counter(entry["reason"].partition(":")[0] for entry in self.rejected)

    def reject(self, document: Document, reason: str, duplicate_of: str) -> None:
        self.rejected.append(
            {"id": document.id, "source": document.source, "reason": reason, "duplicate_of": duplicate_of}
        )

    def flow(self) -> dict[str, int]:
        """How many files went where; raises AssertionError unless in = out + rejected + duplicates + not sampled."""
        flow = {"in": self.files, **{name: len(self.splits[name]) for name in SPLITS}}
        flow |= dict(sorted(self._reasons().items())) | {"not_sampled": self.not_sampled}
        assert sum(flow.values()) == 2 * self.files, f"documents were lost or made: {flow}"
        return flow

    def steps(self) -> list[dict[str, Any]]:
        """The flow by steps; in each, `in` = `out` + `rejected` + `duplicates` + `not_sampled`."""
        reasons = self._reasons()
        exact, near, unreadable = (reasons.pop(name, 0) for name in (EXACT_DUPLICATE, NEAR_DUPLICATE, UNREADABLE))
        losses = [
            ("choose_files", "not_sampled", self.unread),
            ("read", "rejected", unreadable),
            ("filter", "rejected", reasons.total()),
            ("exact_dedup", "duplicates", exact),
            ("budget", "not_sampled", self.over_budget),
            ("near_dedup", "duplicates", near),
        ]
        steps: list[dict[str, Any]] = []
        left = self.files
        for name, kind, lost in losses:
            losses_of_step = {"rejected": 0, "duplicates": 0, "not_sampled": 0} | {kind: lost}
            steps.append({"step": name, "in": left, "out": left - lost, **losses_of_step})
            left -= lost
        assert left == sum(map(len, self.splits.values())), f"documents were lost or made: {steps}"
        return steps


class Chooser:
    """Takes the chunks in their order until the budget is full."""

    def __init__(self, spec: CorpusSpec, files: int) -> None:
        self.spec = spec
        self.selection = Selection(files=files)
        self.kept: list[Document] = []
        self.kept_bytes = 0
        self.seen_files = 0
        self._by_content: dict[str, str] = {}
        self._listings = hashlib.sha256()

    @property
    def listing(self) -> str:
        """A digest of the files seen so far: with the spec, all that the outcome depends on."""
        return self._listings.hexdigest()

    @property
    def full(self) -> bool:
        return bool(self.spec.max_bytes) and self.kept_bytes >= self.spec.max_bytes

    def take(self, summary: dict[str, Any]) -> None:
        """Decide on one chunk, as the next in order: filters, exact duplicates, budget."""
        self.selection.rejected += summary["rejected"]
        self.seen_files += summary["files"]
        self._listings.update(summary["listing"].encode())
        for row, entry in enumerate(summary["kept"]):
            document = Document(
                summary["number"], row, entry["id"], entry["source"], entry["license"],
                entry["bytes"], entry["content"], entry["bands"],
            )  # fmt: skip
            first = self._by_content.setdefault(document.content, document.id)
            if first != document.id:
                self.selection.reject(document, EXACT_DUPLICATE, first)
            elif self.full:
                self.selection.over_budget += 1
            else:
                self.kept.append(document)
                self.kept_bytes += document.size_bytes

    def finish(self, work: Location) -> Selection:
        """Split what was kept, remove near-duplicates, and put each split into its final, shuffled order."""
        self.selection.unread = self.selection.files - self.seen_files
        for document in self.kept:
            share = keyed_hash(self.spec.seed, "heldout", document.content) / 2**64
            name = "heldout" if share < self.spec.heldout_fraction else "train"
            self.selection.splits[name].append(document)
        for name in SPLITS:
            self.selection.splits[name].sort(key=lambda d: (keyed_hash(self.spec.seed, "shuffle", d.content), d.id))
        self._drop_near_duplicates(work)
        return self.selection

    def _drop_near_duplicates(self, work: Location) -> None:
        documents: list[Document] = []

        @functools.lru_cache(CACHED_SHINGLES)
        def shingles_of(row: int) -> Hashes:
            document = documents[row]
            return shingles(pick(work, document.chunk, [document.row])[0]["text"])

        index = NearIndex(self.spec.near_dedup_threshold, shingles_of)
        for name in SPLITS:  # train first: it wins over heldout
            stay: list[Document] = []
            for document in self.selection.splits[name]:
                documents.append(document)
                row = len(documents) - 1
                looked = self.spec.near_dedup or name == "heldout"
                twin = index.find(row, document.bands) if looked else None
                if twin is not None:
                    self.selection.reject(document, NEAR_DUPLICATE, documents[twin].id)
                    continue
                stay.append(document)
                if self.spec.near_dedup or name == "train":
                    index.add(row, document.bands)
            self.selection.splits[name] = stay


def parts(documents: Iterable[Document], part_bytes: int) -> list[list[Document]]:
    """Cut a split into parts of about `part_bytes` of text; no document is divided."""
    cut: list[list[Document]] = [[]]
    size = 0
    for document in documents:
        if size >= part_bytes:
            cut.append([])
            size = 0
        cut[-1].append(document)
        size += document.size_bytes
    return [part for part in cut if part]
