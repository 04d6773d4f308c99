"""The answers of preferences as tokens: which are compared, which are set aside and why, and what each is.

Only the last answer is judged; what was said before is context, whole. One that is twice the same, empty, or tied with
the other teaches no preference: it is counted by name and left out.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.core.encoding import Encoded, Refused, encode
from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from pipelines.stages.alignment.offline.spec import TooLong
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.truncation import split_turns

Row = dict[str, Any]
LEFT_OUT = ("same_answers", "empty_answers", "ties", "unpaired", "too_long", "refused")
APART = 2  # a request is given the answer so many further on: those of a pair, the answers of the next pair


@dataclass(frozen=True)
class Answer:
    """One answer to a prompt, and whether it is wanted."""

    prompt: list[dict[str, Any]]
    text: str
    desirable: bool


class AnswerReader:
    """Makes token sequences of at most `longest` tokens of the answers in preferences, and counts what becomes of them.

    `counts`: `pairs` (of a loss on single answers, `answers`) that are learned, of these `cut` ones, and by the names
    in LEFT_OUT those that are not.
    """

    def __init__(self, tokenizer: Any, longest: int, policy: TooLong, paired: bool) -> None:
        self.tokenizer, self.longest, self.policy, self.paired = tokenizer, longest, policy, paired
        self.unit = "pairs" if paired else "answers"
        self.counts = Counter(dict.fromkeys((self.unit, "cut", *LEFT_OUT), 0))

    def read(self, rows: Sequence[Row]) -> tuple[list[Answer], list[Encoded]]:
        """The answers that are learned, in the order of the rows, of pairs the chosen one first."""
        answers: list[Answer] = []
        found: list[Encoded] = []
        for row in rows:
            for given in self._answers(row):
                encoded = self._encoded(given)
                if isinstance(encoded, str):
                    self.counts[encoded] += 1
                else:
                    self.counts[self.unit] += 1
                    answers += given
                    found += encoded
        return answers, found

    def _answers(self, row: Row) -> Iterator[list[Answer]]:
        """What of a row is learned together: the two answers of a pair, or one."""
        if "desirable" in row:
            if self.paired:
                self.counts["unpaired"] += 1
            else:
                yield [Answer(row["prompt"], row["answer"], row["desirable"])]
            return
        if row.get("tie"):
            self.counts["ties"] += 1
            return
        both = [Answer(row["prompt"], row[side], side == "chosen") for side in ("chosen", "rejected")]
        if both[0].text == both[1].text:
            self.counts["same_answers"] += 1
        elif self.paired:
            yield both
        else:
            yield from ([answer] for answer in both)

    def _encoded(self, answers: list[Answer]) -> list[Encoded] | str:
        """Answers to one prompt as sequences, or the name of why there are none."""
        if not all(answer.text.strip() for answer in answers):
            return "empty_answers"
        prompt = answers[0].prompt
        try:
            whole = [last_answer(self.tokenizer, prompt, answer.text) for answer in answers]
            fitting = whole if self._fit(whole) else self._cut(prompt, answers, whole)
        except Refused:
            return "refused"
        if not fitting or not all(any(one.learn) for one in fitting):
            return "too_long"
        if len(fitting) > 1 and fitting[0].tokens == fitting[1].tokens:  # to the template, or once they are cut
            return "same_answers"
        self.counts["cut"] += fitting is not whole
        return fitting

    def _fit(self, encoded: list[Encoded]) -> bool:
        return all(len(one.tokens) <= self.longest for one in encoded)

    def _cut(self, prompt: list[dict[str, Any]], answers: list[Answer], whole: list[Encoded]) -> list[Encoded]:
        if self.policy == "cut-end":
            return [ended(one, self.longest) for one in whole]
        head, turns = split_turns(prompt) if self.policy == "cut-turns" else ([], [])
        for first in range(1, len(turns)):
            rest = [*head, *(message for turn in turns[first:] for message in turn)]
            found = [last_answer(self.tokenizer, rest, answer.text) for answer in answers]
            if self._fit(found):
                return found
        return []

    def mismatched(self, answers: Sequence[Answer]) -> list[Encoded]:
        """Each answer's prompt with an answer to another one, which comes a little later; the last have the first.

        Together they are the same answers. Raises InputError where there is one prompt only.
        """
        found, count = [], len(answers)
        for number, answer in enumerate(answers):
            others = (answers[(number + APART + further) % count] for further in range(count))
            other = next((one for one in others if one.prompt != answer.prompt), None)
            if other is None:
                raise InputError(
                    "kto estimates the KL by answers to other requests, and all preferences answer one", "Give more."
                )
            found.append(ended(last_answer(self.tokenizer, answer.prompt, other.text), self.longest))
        return found

    def require(self, what: str) -> None:
        """Raise InputError where nothing is left of `what`, some artifact's split."""
        if not self.counts[self.unit]:
            told = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count) or "none is there"
            raise InputError(
                f"{what}: nothing is left to learn from in {self.longest} tokens: {told}",
                "Raise the sequence_length (or take a model of a longer context), or give more preferences.",
            )


def last_answer(tokenizer: Any, prompt: list[dict[str, Any]], text: str) -> Encoded:
    """A prompt and its answer, of which the answer alone is to be learned. Raises Refused."""
    said = [message | {"learn": False} if message["role"] == "assistant" else message for message in prompt]
    return encode(tokenizer, [*said, {"role": "assistant", "content": text}])


def ended(encoded: Encoded, longest: int) -> Encoded:
    return Encoded(encoded.tokens[:longest], encoded.learn[:longest])


def digest(encoded: Encoded) -> int:
    """What stands for a sequence and the tokens of it that count, in 64 bits."""
    data = np.asarray(encoded.tokens, np.int32).tobytes() + bytes(encoded.learn)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


@dataclass(frozen=True)
class AnswerSet:
    """Answers as sequences, of pairs two after another; whether each is `desirable`; the log-probabilities of a
    reference (answers,) in nats, 0 where there is none; and, of single answers, the mismatched ones with theirs."""

    paired: bool
    sequences: Sequences
    desirable: NDArray[np.bool_]
    reference: NDArray[np.float64]
    mismatched: Sequences | None = None
    mismatched_reference: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Pairs, or answers."""
        return len(self.desirable) // (1 + self.paired)

    def rows(self, samples: Sequence[int]) -> list[int]:
        """The sequences of samples: the two of each pair, or one each."""
        return [row for s in samples for row in (2 * s, 2 * s + 1)] if self.paired else list(samples)

    def first(self, count: int) -> AnswerSet:
        """The same, of which only the first so many samples are validated on."""
        rows = self.rows(range(min(count, len(self))))
        return replace(self, desirable=self.desirable[rows])

    def batch(self, samples: Sequence[int]) -> dict[str, Tensor]:
        """What `Preference` takes: tokens, learn, reference."""
        rows = self.rows(samples)
        return self.sequences.batch(rows) | {"reference": torch.from_numpy(self.reference[rows]).float()}

    def mismatched_batch(self, samples: Sequence[int]) -> dict[str, Tensor]:
        assert self.mismatched is not None and self.mismatched_reference is not None
        rows = list(samples)
        return self.mismatched.batch(rows) | {"reference": torch.from_numpy(self.mismatched_reference[rows]).float()}

    def save(self, place: Location, name: str) -> None:
        arrays: dict[str, Any] = {"desirable": self.desirable, "reference": self.reference}
        self.sequences.save(place, f"{name}.npz")
        if self.mismatched is not None:
            self.mismatched.save(place, f"{name}-mismatched.npz")
            arrays["mismatched_reference"] = self.mismatched_reference
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        place.write_bytes(f"{name}-answers.npz", buffer.getvalue())

    @staticmethod
    def load(place: Location, name: str, paired: bool) -> AnswerSet:
        with np.load(io.BytesIO(place.read_bytes(f"{name}-answers.npz"))) as file:
            arrays = dict(file)
        mismatched = None if paired else Sequences.load(place, f"{name}-mismatched.npz")
        return AnswerSet(paired, Sequences.load(place, f"{name}.npz"), mismatched=mismatched, **arrays)
