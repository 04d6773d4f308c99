"""Chunks: runs of files from a seeded order, each cleaned by one task. The unit of parallelism, resuming and budget.

The order is a hash of the files' names, so that a prefix of it is a fair sample; it is cut by the files' sizes, so that
neither the number of workers nor an interruption shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.specs import CorpusSpec
from pipelines.stages.corpus.documents import SourceFile, keyed_hash
from pipelines.stages.corpus.readers.source import Source

MAX_FILES = 1024


@dataclass(frozen=True)
class Chunk:
    """Some files, and how much text of them may be kept (0: all)."""

    number: int
    files: tuple[SourceFile, ...]
    budget_bytes: int = 0

    @property
    def listing(self) -> str:
        """A digest of the files as they are now: a chunk that was cleaned before counts only if it is the same."""
        seen = repr(
            (self.budget_bytes, [(f.source, f.name, f.start, f.size_bytes, f.stamp, f.origin) for f in self.files])
        )
        return hashlib.sha256(seen.encode(errors="backslashreplace")).hexdigest()


def plan_chunks(spec: CorpusSpec) -> list[Chunk]:
    """List the files of all sources and cut their seeded order into chunks of about `part_bytes` each."""
    files = [file for number, source in enumerate(spec.sources) for file in _listed(number, source)]
    files.sort(key=lambda file: (keyed_hash(spec.seed, "order", _name(file)), file.source, _name(file)))
    return [Chunk(number, tuple(run)) for number, run in enumerate(_cut(files, spec.part_bytes))]


def _name(file: SourceFile) -> str:
    return f"{file.name}@{file.start}" if file.stop else file.name


def _listed(number: int, source: Source) -> list[SourceFile]:
    return [replace(file, source=number) for file in source.list_files()]


def _cut(files: Sequence[SourceFile], part_bytes: int) -> list[list[SourceFile]]:
    runs: list[list[SourceFile]] = []
    size = part_bytes
    for file in files:
        if size >= part_bytes or len(runs[-1]) >= MAX_FILES:
            runs.append([])
            size = 0
        runs[-1].append(file)
        size += max(file.size_bytes, 0)
    return runs
