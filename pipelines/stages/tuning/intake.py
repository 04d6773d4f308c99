"""Conversations out of the files that a spec names: found, known by what is in them, read, looked through, counted."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster.core.errors import InputError
from pipelines.specs import ConversationsSpec
from pipelines.stages import licenses
from pipelines.stages.corpus.documents import SourceFile
from pipelines.stages.corpus.readers.huggingface import HuggingFaceSource
from pipelines.stages.tuning import formats
from pipelines.stages.tuning.conversation import BadRecord, Conversation, Unusable, checked, is_unicode
from pipelines.stages.tuning.declared import FIELDS, of_file, of_record
from pipelines.stages.tuning.formats import ABOUT, AUTO, PROMPTS, Found, NoFormat, Reader, taken
from pipelines.stages.tuning.records import ENDINGS, PACKAGE, Row, files_at, located, records
from pipelines.stages.tuning.texts import Texts

HUB = "hub:"
LOOKED_AT = 1000  # records of a file that tell whether it is of a format at all
GUESSED = 1000  # records of another format that a guess is made of


class Taken(NamedTuple):
    """A conversation with its place: `record` is the number of a record that holds several, 0 of one that holds one."""

    id: str
    record: int
    conversation: Conversation
    source: str
    license: str


class Refused(NamedTuple):
    """A record, or one conversation of it, that is not used."""

    id: str
    line: int
    reason: str


class Read(NamedTuple):
    """What a record holds."""

    found: Found
    source: str
    license: str


class Intake:
    """The conversations of a path, and the figures of what was read; `prefix` goes before the ids."""

    def __init__(self, spec: ConversationsSpec, path: str, split: str, prefix: str = "") -> None:
        self.spec, self.path, self.prefix = spec, path, prefix
        self.files, self.label, told = files_of(spec, path, split)
        self.is_single = len(self.files) == 1
        self.reader = Reader(spec.format, spec.columns)
        self.texts = Texts(spec.control_tokens, spec.replace)
        self.declared = functools.cache(
            lambda: licenses.normalize(spec.license or told) if spec.license or told else of_file(path)
        )
        self.records = self.units = self.bad = 0
        self.formats: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.guesses: Counter[str] = Counter()
        self.set_aside: dict[str, str] = {}
        self.first_bad: Refused | None = None

    def __iter__(self) -> Iterator[Taken | Refused]:
        """All conversations and refusals, in the order of the files. Raises InputError where a file, or too much of
        all, is of another format."""
        for file in self.files:
            yield from self._of_file(file)
        if not self.records:
            for name, said in self.set_aside.items():
                raise InputError(f"{self.path}{'' if self.is_single else f': {name}'}: {said}", self._remedy())
            raise InputError(f"{self.path} holds no record", "Check conversations.path.")
        if self.bad > self.spec.max_bad_fraction * self.units and self.first_bad:
            first = self.first_bad
            raise InputError(
                f"{self.path}: {self.bad} of {self.units} records cannot be used, the first ({first.id}) in line "
                f"{first.line}: {first.reason}{_seems(self.guesses, self.guesses.total())}",
                self._remedy() if any(self.guesses) else "Mend them, or raise conversations.max_bad_fraction.",
            )

    def _of_file(self, file: SourceFile) -> Iterator[Taken | Refused]:
        """Those of a file; of one in which no record is of the format nothing, and it is set aside."""
        held: list[tuple[Row, BadRecord]] = []  # until a record is of the format
        is_known = False
        for row in records(file, self.spec.encoding):
            found = self._read(row)
            is_known = is_known or (isinstance(row.value, dict) and not isinstance(found, NoFormat))
            if isinstance(found, BadRecord) and not is_known:
                held.append((row, found))
                if len(held) == LOOKED_AT:
                    if _is_other(held):
                        break
                    yield from self._all_refused(file, held)
                continue
            yield from self._all_refused(file, held)
            if isinstance(found, BadRecord):
                yield self._refused(file, row, found)
            else:
                yield from self._of_record(file, row, found)
        if held and _is_other(held):
            said = next(str(error) for _, error in held if isinstance(error, NoFormat))
            guesses = Counter(formats.guess(row.value) for row, _ in held if isinstance(row.value, dict))
            self.set_aside[file.name] = said + _seems(guesses, len(held))
        else:
            yield from self._all_refused(file, held)

    def _read(self, row: Row) -> Read | BadRecord:
        """What a record holds, or why it is refused."""
        if isinstance(row.value, str):
            return BadRecord(row.value)
        for name in ABOUT:
            if name in self.spec.columns:
                row.value[name] = taken(row.value, self.spec.columns[name])
        source, license = label(row.value.pop("source", None)), of_record(row.value)
        try:
            return Read(self.reader.read(row.value), source or self.label, license)
        except BadRecord as error:
            return error

    def _of_record(self, file: SourceFile, row: Row, read: Read) -> Iterator[Taken | Refused]:
        found, source, license = read
        self.records += 1
        self.formats[found.layout] += 1
        self.notes.update(found.notes)
        self.left_out.update(name for name in found.left_out if name not in FIELDS)
        if license == licenses.UNKNOWN:
            license = self.declared()
        record = self.records if len(found.conversations) > 1 else 0
        for number, conversation in enumerate(found.conversations, 1):
            name = self._id(file, row) + (f".{number}" if record else "")
            self.units += 1
            try:
                self.notes.update(self.texts.seen(conversation["messages"]))
                checked(conversation["messages"], answered=self.spec.format != PROMPTS)
            except BadRecord as error:
                yield self._told(Refused(name, row.line, str(error)), error)
                continue
            yield Taken(name, record, conversation, source, license)

    def _all_refused(self, file: SourceFile, held: list[tuple[Row, BadRecord]]) -> Iterator[Refused]:
        yield from [self._refused(file, row, error) for row, error in held]
        held.clear()

    def _refused(self, file: SourceFile, row: Row, error: BadRecord) -> Refused:
        self.records += 1
        self.units += 1
        if isinstance(row.value, dict) and isinstance(error, NoFormat) and self.guesses.total() < GUESSED:
            self.guesses[formats.guess(row.value)] += 1
        return self._told(Refused(self._id(file, row), row.line, str(error)), error)

    def _told(self, refused: Refused, error: BadRecord) -> Refused:
        if not isinstance(error, Unusable):
            self.bad += 1
            self.first_bad = self.first_bad or refused
        return refused

    def _id(self, file: SourceFile, row: Row) -> str:
        return f"{self.prefix}{file.name}:{row.number}"

    def _remedy(self) -> str:
        known = ", ".join(name for name in formats.FORMATS if name != AUTO)
        return (
            f"Set conversations.format ({known}), or map the columns: "
            "conversations.columns.prompt=question, conversations.columns.response=answer."
        )


def files_of(spec: ConversationsSpec, path: str, split: str) -> tuple[list[SourceFile], str, str]:
    """The files at a path, what their records' `source` says where they name none, and a hub data set's licence."""
    if path.startswith(HUB):
        name = path.removeprefix(HUB)
        hub = HuggingFaceSource(
            path=name, subset=spec.hub_subset, split=split, revision=spec.hub_revision, suffixes=ENDINGS
        )
        files = _ours(hub.list_files)
        return files, name, files[0].origin.get("license", "")
    files = files_at(path, "conversations.path")
    is_single = path.startswith(PACKAGE) or located(path).is_file()
    return files, files[0].name if is_single else Path(path).name, ""


def label(value: Any) -> str:
    """What a record says of its source, if it is a text."""
    return value if isinstance(value, str) and is_unicode(value) else ""


def _ours(find: Any) -> list[SourceFile]:
    """The files, with the errors of the corpus's finder about our field."""
    try:
        files: list[SourceFile] = find()
    except InputError as error:
        raise InputError(error.message.replace("corpus.sources", "conversations.path"), error.remedy) from error
    return files


def _is_other(held: list[tuple[Row, BadRecord]]) -> bool:
    """Whether what was refused are records of something else, and not damaged ones alone."""
    return any(isinstance(error, NoFormat) for _, error in held)


def _seems(guesses: Counter[str], total: int) -> str:
    """The best guess at the format of so many records."""
    known = Counter({name: count for name, count in guesses.items() if name})
    if not known:
        return ""
    [(name, count)] = known.most_common(1)
    return f"; {count} of {total} look like {name}"
