"""One chunk: read, run the rules, write what stays in pieces, and sign it for de-duplication.

A piece is `part_bytes` of kept text: what becomes a file of the corpus. Everything that a chunk leaves is written
before its summary, which says that the chunk is done, for as long as its files stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import msgspec
import numpy as np
import numpy.typing as npt

from cluster.control.failures import describe
from cluster.core.errors import InputError, TrunklineError
from cluster.core.storage.location import PACKED, Location
from pipelines.specs import CorpusSpec
from pipelines.stages import licenses
from pipelines.stages.corpus.chunks import Chunk
from pipelines.stages.corpus.dedup.duplicates import write_index
from pipelines.stages.corpus.dedup.identity import write_ids
from pipelines.stages.corpus.dedup.line_dedup import line_hashes, write_line_index
from pipelines.stages.corpus.dedup.minhash import content_key, shingles, signature
from pipelines.stages.corpus.documents import Broken, Document, SourceFile, keyed_hash
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.files import UNREADABLE
from pipelines.stages.corpus.rules.rule import apply
from pipelines.stages.corpus.tables import DOCUMENT_SCHEMA, IDS_SCHEMA, REJECTED_SCHEMA, TableWriter
from pipelines.stages.corpus.tally import BrokenFile, Tally

PIECES = 4096  # of a chunk, at most
READ = "read"
EXCERPT_CHARACTERS = 200
LINES = "lines"  # the folder of what line de-duplication needs


def ids_file(piece: int) -> str:
    """Where, below an index, the ids and split keys of a piece's documents are."""
    return f"ids/{piece:08d}.parquet"


class Summary(msgspec.Struct):
    """What a cleaned chunk says of itself."""

    number: int
    listing: str
    pieces: list[int]  # their numbers in the corpus: chunk * PIECES + 0, 1, ...
    documents: list[int]  # of each piece
    kept_bytes: int
    full: bool  # the budget was used up
    tally: Tally


def rule_names(spec: CorpusSpec) -> list[str]:
    """The names of the rules' steps; a rule that is applied twice is told apart by a number."""
    names: list[str] = []
    for rule in spec.rules:
        tag = str(rule.__struct_config__.tag)
        count = sum(name == tag or (name.startswith(f"{tag}_") and name[len(tag) + 1 :].isdigit()) for name in names)
        names.append(f"{tag}_{count + 1}" if count else tag)
    return names


@dataclass(frozen=True)
class Corpus:
    """Where a corpus is made: its spec, the intermediate files, the index for de-duplication, and the artifact."""

    spec: CorpusSpec
    work: Location
    index: Location
    output: Location


def clean(corpus: Corpus, chunk: Chunk) -> Summary:
    """Clean a chunk, unless a run before this one has. Leaves pieces, their index, and the rejected."""
    name = f"chunks/{chunk.number:08d}.json"
    if corpus.work.exists(name):
        summary = msgspec.json.decode(corpus.work.read_bytes(name), type=Summary)
        if summary.listing == chunk.listing:
            return summary
    cleaning = _Cleaning(corpus, chunk)
    cleaning.run()
    summary = Summary(
        chunk.number,
        chunk.listing,
        cleaning.pieces,
        cleaning.documents,
        cleaning.kept_bytes,
        bool(chunk.budget_bytes) and cleaning.kept_bytes >= chunk.budget_bytes,
        cleaning.tally,
    )
    corpus.work.write_bytes(name, msgspec.json.encode(summary))
    return summary


class _Cleaning:
    def __init__(self, corpus: Corpus, chunk: Chunk) -> None:
        self.corpus, self.spec, self.chunk = corpus, corpus.spec, chunk
        self.names = rule_names(corpus.spec)
        self.tally = Tally()
        for step in (READ, *self.names):
            self.tally.step(step)
        self.pieces: list[int] = []
        self.documents: list[int] = []
        self.kept_bytes = 0

    def run(self) -> None:
        piece: _Piece | None = None
        with TableWriter(self.corpus.work, f"rejected/{self.chunk.number:08d}.parquet", REJECTED_SCHEMA) as rejected:
            for source, document in self._stays(rejected):
                if piece is None:
                    piece = self._new_piece()
                size = piece.add(document, source)
                self.kept_bytes += size
                if piece.size_bytes >= self.spec.part_bytes:
                    self._close(piece)
                    piece = None
                if self.chunk.budget_bytes and self.kept_bytes >= self.chunk.budget_bytes:
                    break
        if piece is not None:
            self._close(piece)

    def _new_piece(self) -> _Piece:
        if len(self.pieces) == PIECES:
            raise InputError(
                f"{self.chunk.files[-1].path}: more than {PIECES} parts of {self.spec.part_bytes} bytes in one file",
                "Raise corpus.part_bytes, or split the file.",
            )
        self.pieces.append(self.chunk.number * PIECES + len(self.pieces))
        return _Piece(self.corpus, self.pieces[-1])

    def _close(self, piece: _Piece) -> None:
        piece.close()
        self.documents.append(len(piece.ids))

    def _stays(self, rejected: TableWriter) -> Iterator[tuple[int, Document]]:
        """The documents that no rule rejects, with their sources; the others are written to `rejected`."""
        for source, found in self._read():
            reading = self.tally.step(READ)
            reading.entered += 1
            if isinstance(found, Broken):
                self.tally.reject(READ, found.id, found.reason, "")
                if found.is_damage:
                    self.tally.damage()
                rejected.add(rejection(found, READ, found.reason))
                continue
            passed, reason, changed = apply(self.spec.rules, found)
            for name, was_changed in zip(self.names, changed, strict=False):
                step = self.tally.step(name)
                step.entered += 1
                step.changed += was_changed
            if reason:
                self.tally.reject(self.names[passed], found.id, reason, found.text)
                rejected.add(rejection(found, self.names[passed], reason))
                continue
            found.mend()  # a rule may have cut a character in two
            yield source, found

    def _read(self) -> Iterator[tuple[int, Document | Broken]]:
        for file in self.chunk.files:
            source = self.spec.sources[file.source]
            self.tally.files += 1
            self.tally.file_bytes += max(0, file.size_bytes)
            count, end = 0, ""
            try:
                for found in source.read(file):
                    count += 1
                    end = found.reason if isinstance(found, Broken) and found.ends_file else end
                    yield file.source, _complete(found, source, file)
            except (TrunklineError, MemoryError):
                raise
            except Exception as error:  # whatever a reader makes of a file, it costs that file only
                position = f"after record {count}" if count else ""
                end = _cause(error)
                broken = Broken(file.name, position, f"unreadable: {end}")
                yield file.source, _complete(broken, source, file)
            if not count and not end and file.size_bytes == 0 and file.name.lower().endswith(PACKED):
                end = "the compressed file is empty: it was cut off before its first byte"
                yield file.source, _complete(Broken(file.name, "", f"unreadable: {end}"), source, file)
            if end:
                self.tally.broken_files.append(BrokenFile(file.name, file.size_bytes, count, end))


def _cause(error: Exception) -> str:
    """Why a file cannot be read; what was not foreseen is told with its type."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, UNREADABLE) and str(error) else describe(error)


def _complete(found: Document | Broken, source: Source, file: SourceFile) -> Document | Broken:
    """Fill in what the source knows where the document itself does not say."""
    named = file.origin.get("source", "") or source.name or PurePosixPath(source.path.rstrip("/")).name
    if isinstance(found, Broken):
        return replace(found, source=named)
    found.mend()
    found.source = found.source or named
    license = found.license or source.license or file.origin.get("license", "")
    found.license = licenses.normalize(license) if license else ""
    found.url = found.url or file.origin.get("url", "")
    return found


def rejection(found: Document | Broken, step: str, reason: str) -> dict[str, str]:
    """A row of the table of what did not stay."""
    position, text = (found.position, "") if isinstance(found, Broken) else ("", found.text)
    return {
        "id": found.id,
        "source": found.source,
        "step": step,
        "reason": reason,
        "duplicate_of": "",
        "position": position,
        "excerpt": text[:EXCERPT_CHARACTERS],
    }


def split_key(seed: int, id: str, assign: str) -> int:
    """What decides on a document's split: a hash of its id, or the end of the range where its source says which."""
    return {"heldout": 0, "train": 2**64 - 1}.get(assign, keyed_hash(seed, "heldout", id))


class _Piece:
    """Kept documents of about `part_bytes`, with what de-duplication and the split need of each."""

    def __init__(self, corpus: Corpus, number: int) -> None:
        self._corpus, self._spec, self._number = corpus, corpus.spec, number
        self._writer = TableWriter(corpus.work, f"documents/{number:08d}.parquet", DOCUMENT_SCHEMA).__enter__()
        self.ids: list[str] = []
        self._keys: list[tuple[int, int]] = []
        self._bands: list[npt.NDArray[np.uint64]] = []
        self._lines: list[npt.NDArray[np.uint64]] = []
        self._sources: list[int] = []
        self.size_bytes = 0

    def add(self, document: Document, source: int) -> int:
        """Take a document; its size in bytes."""
        size = len(document.text.encode())
        self.size_bytes += size
        self._writer.add(document.row())
        self.ids.append(document.id)
        self._keys.append(content_key(document.text))
        self._bands.append(signature(shingles(document.text, self._spec.minhash.shingle_words), self._spec.minhash))
        if self._spec.line_dedup:
            self._lines.append(line_hashes(document.text, self._spec.line_dedup))
        self._sources.append(source)
        return size

    def close(self) -> None:
        self._writer.__exit__()
        index, number = self._corpus.index, self._number
        sources = np.array(self._sources, dtype=np.uint8)
        write_ids(self._corpus.work, number, self.ids, sources)
        write_index(index, number, np.array(self._keys, dtype=np.uint64), np.stack(self._bands), sources)
        if self._spec.line_dedup:
            write_line_index(self._corpus.work / LINES, number, self._lines, sources)
        keys = zip(self.ids, self._sources, strict=True)
        splits = [split_key(self._spec.seed, id, self._spec.sources[source].assign) for id, source in keys]
        with TableWriter(index, ids_file(number), IDS_SCHEMA) as writer:
            for id, split in zip(self.ids, splits, strict=True):
                writer.add({"id": id, "split": split})
