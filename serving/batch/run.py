"""Answers a batch: what is not answered yet is asked, by whichever way there is, and written in order in the end."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from cluster.core.errors import InputError
from serving.batch import requests
from serving.batch.journal import SUFFIX, Journal
from serving.batch.requests import Answers, Asked, Bad

Answered = tuple[int, bytes]  # the number of a line, and the line of its answer
Way = Callable[[list[Asked], Answers], Iterable[Answered]]
"""How requests are answered: each exactly once, in any order."""


@dataclass
class Outcome:
    """What became of a batch: how many lines, and their ends by status, `invalid_line` or `unanswered`."""

    lines: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    was_there: bool = False


class _Error(msgspec.Struct):
    code: str = ""


class _Response(msgspec.Struct):
    status_code: int = 0


class _Line(msgspec.Struct):
    """What is read of a line of the output."""

    id: str
    response: _Response | None = None
    error: _Error | None = None


def run(
    source: Path, output: Path, who: str, way: Way, progress: Callable[[int, int], None] = lambda done, total: None
) -> Outcome:
    """Answer the requests of a file. `who` names who answers; a batch that was begun goes on.

    Raises InputError for a file that cannot be read, or an output that is another batch's.
    """
    identity = hashlib.sha256(f"{requests.digest(source)}/{who}".encode()).hexdigest()
    answers = Answers(identity)
    numbers = [line.number for line in requests.read(source)]
    if not numbers:
        raise InputError(f"{source}: no requests", "Give a request in each line.")
    begun = output.with_name(output.name + SUFFIX).exists()
    if output.exists() and not begun:
        return _there(output, answers, numbers)
    journal = Journal(output, identity)
    try:
        there, todo = journal.numbers, []
        for line in requests.read(source):
            if line.number in there:
                continue
            if isinstance(line, Bad):
                journal.add(line.number, answers.bad(line))
            else:
                todo.append(line)
        done = len(numbers) - len(todo)
        progress(done, len(numbers))
        for number, line_ in way(todo, answers) if todo else ():
            journal.add(number, line_)
            done += 1
            progress(done, len(numbers))
        journal.finish(numbers)
    finally:
        journal.close()
    return _counted(output)


def _there(output: Path, answers: Answers, numbers: list[int]) -> Outcome:
    """Of an output that is this batch's own. Raises InputError for another."""
    try:
        ids = [line.id for line in _lines(output)]
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        ids = []
    if ids != [answers.id(number) for number in numbers]:
        raise InputError(f"{output} is there already, and not of this batch", "Remove it, or give another output.")
    outcome = _counted(output)
    outcome.was_there = True
    return outcome


def _counted(output: Path) -> Outcome:
    outcome = Outcome()
    for line in _lines(output):
        outcome.lines += 1
        outcome.ends[str(line.response.status_code) if line.response else line.error.code if line.error else ""] += 1
    return outcome


def _lines(output: Path) -> Iterator[_Line]:
    decoder = msgspec.json.Decoder(_Line)
    with output.open("rb") as file:
        for text in file:
            yield decoder.decode(text)
