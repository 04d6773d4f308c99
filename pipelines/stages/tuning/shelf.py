"""Conversations on their way into a split: the rows wait in a file, and memory holds some hashes of each.

About a hundred bytes a conversation, whatever it says, so that millions are split, ordered and compared on one machine.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.stages.corpus.chunks import keyed_hash
from pipelines.stages.tuning import splitting
from pipelines.stages.tuning.conversation import BadRecord, Message, answers
from pipelines.stages.tuning.intake import Taken

TRAIN, HELDOUT = 0, 1
UNDECIDED = 2
SHARED_CHARS = 24  # a shorter answer ("Yes.") is a phrase, and binds no dialogues together
MAX_NAMES = 10_000  # of sources that are told apart
MANY = "(others)"
WORDLESS = re.compile(r"[\W_]+")


class Shelf:
    """Rows in a file below `folder`, which is gone with the shelf, and what is known of each."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._file = (folder / "rows.jsonl").open("w+b", buffering=1 << 20)
        self.seed = seed
        self._offsets = array("Q", [0])
        self._orders, self._chances, self._requests = array("Q"), array("Q"), array("Q")
        self._wholes = array("Q"), array("Q")
        self._splits = bytearray()
        self._keys, self._owners = array("Q"), array("q")
        self._answers, self._answered = array("Q"), array("q")
        self._licenses: Names = Names()
        self._sources: Names = Names()

    def __len__(self) -> int:
        return len(self._splits)

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, taken: Taken, split: int = UNDECIDED) -> None:
        """Put a conversation down. Raises BadRecord where it cannot be written."""
        found = taken.conversation
        try:
            turns = [msgspec.json.encode(message) for message in found["messages"]]
            beside = {key: value for key, value in found.items() if key != "messages"}
            rest = msgspec.json.encode({**beside, "source": taken.source, "license": taken.license})
            name = msgspec.json.encode(taken.id)
        except (UnicodeEncodeError, msgspec.MsgspecError) as error:
            raise BadRecord(f"broken text: {error}") from None
        line = b'{"id":' + name + b',"messages":[' + b",".join(turns) + b"]," + rest[1:] + b"\n"
        self._file.write(line)
        self._offsets.append(self._offsets[-1] + len(line))
        row = len(self)
        self._splits.append(split)
        self._orders.append(keyed_hash(self.seed, "order", taken.id))
        self._chances.append(keyed_hash(self.seed, "heldout", taken.id))
        asked = turns if found["messages"][-1]["role"] != "assistant" else turns[:-1]
        tools = msgspec.json.encode(found["tools"]) if "tools" in found else b""
        self._requests.append(_hash(b"\0".join([*asked, tools])))
        whole = hashlib.blake2b(b"\0".join([*turns, tools]), digest_size=16).digest()
        for kept, part in zip(self._wholes, (whole[:8], whole[8:]), strict=True):
            kept.append(int.from_bytes(part, "big"))
        self._licenses.add(taken.license)
        self._sources.add(taken.source)
        if split == UNDECIDED:
            for key in keys(taken.record, found["messages"]):
                self._keys.append(key)
                self._owners.append(row)
        for answer in answers(found["messages"]):
            self._answers.append(_hash(answer.encode()))
            self._answered.append(row)

    def split(self, fraction: float) -> None:
        """Decide on the rows, where they have no split yet: groups of them are held out, up to `fraction` of all."""
        if UNDECIDED in self._splits:
            group = splitting.groups(len(self), np.asarray(self._keys), np.asarray(self._owners))
            chosen = splitting.held_out(group, np.asarray(self._chances), fraction)
            self._splits = bytearray(np.where(chosen, HELDOUT, TRAIN).astype(np.uint8).tobytes())

    def sorted(self) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """The rows of train and of held-out, each in the order of a hash and without what is there twice; and of all
        rows the one that each repeats, or -1."""
        splits = np.frombuffer(self._splits, dtype=np.uint8)
        order = np.lexsort((np.arange(len(self)), np.asarray(self._orders), splits))
        twins = splitting.duplicates(
            order, [np.asarray(each) for each in self._wholes], np.asarray(self._requests), splits == TRAIN
        )
        kept = order[twins[order] < 0]
        return [kept[splits[kept] == split] for split in (TRAIN, HELDOUT)], twins

    def lines(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        """The rows' lines, in the order given."""
        self._file.flush()
        for row in rows.tolist():
            start = self._offsets[row]
            yield os.pread(self._file.fileno(), self._offsets[row + 1] - start, start)

    def id(self, row: int) -> str:
        return str(msgspec.json.decode(next(self.lines(np.array([row]))))["id"])

    def counted(self, rows: list[NDArray[np.int64]]) -> dict[str, Counter[str]]:
        """How many of these rows have which licence and which source."""
        every = np.concatenate(rows)
        return {"licenses": self._licenses.counted(every), "sources": self._sources.counted(every)}

    def trained_twice(self, train: NDArray[np.int64], heldout: NDArray[np.int64]) -> dict[str, float | int]:
        """How many answers of the held-out rows are trained, too, word for word, and their share of the characters."""
        known = np.unique(np.asarray(self._answers)[np.isin(np.asarray(self._answered), train)])
        said = again = characters = repeated = 0
        for line in self.lines(heldout):
            for answer in answers(msgspec.json.decode(line)["messages"]):
                key = np.uint64(_hash(answer.encode()))
                at = int(np.searchsorted(known, key))
                is_known = bool(answer) and at < len(known) and bool(known[at] == key)
                said, characters = said + 1, characters + len(answer)
                again, repeated = again + is_known, repeated + is_known * len(answer)
        return {"answers": said, "trained": again, "share_of_characters": round(repeated / max(1, characters), 4)}


class Names:
    """Names by row, each kept once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._of_rows = array("H")

    def add(self, name: str) -> None:
        if name not in self._numbers and len(self._numbers) >= MAX_NAMES:
            name = MANY
        self._of_rows.append(self._numbers.setdefault(name, len(self._numbers)))

    def counted(self, rows: NDArray[np.int64]) -> Counter[str]:
        counts = np.bincount(np.asarray(self._of_rows)[rows], minlength=len(self._numbers)).tolist()
        return Counter({name: counts[number] for name, number in self._numbers.items() if counts[number]})


def keys(record: int, messages: list[Message]) -> list[int]:
    """What ties a conversation to others: its record, the request that it opens with (but for capitals, blanks and
    punctuation), and each answer that is more than a phrase."""
    opening = next((message["content"] for message in messages if message["role"] == "user"), "")
    plain = WORDLESS.sub("", opening.casefold()) or opening
    said = [answer for answer in answers(messages) if len(answer) >= SHARED_CHARS]
    found = [_hash(b"asked" + plain.encode()), *(_hash(b"answered" + answer.encode()) for answer in said)]
    return [*found, _hash(b"record" + record.to_bytes(8, "big"))] if record else found


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
