"""What the policy really said: groups of rollouts and held-out answers as JSON lines, and as a page to search.

Read these beside the curve. A reward that is pleased by something else than what you want shows here first.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from cluster.core.storage.location import Location
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.generation.engine import Completion

TRANSCRIPTS_FILE = "transcripts.jsonl"
PAGE_FILE = "transcripts.html"
TEMPLATE = Path(__file__).with_suffix(".html")
UNFINISHED = "\ufffd"  # what bytes are shown as that make no character yet
HELDOUT_ANSWERS = 4  # of an evaluation
ROLLOUTS = 50  # of a run, at most, of each its first group


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """The fewest tokens that make whole characters, and the mean of their advantages; None where none is known."""

    text: str
    advantage: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer: its pieces, its reward and each component's (None: it failed), and how it ended."""

    pieces: list[Piece]
    reward: float
    by_name: dict[str, float | None]
    tokens: int
    finish_reason: str


class Transcript(msgspec.Struct, frozen=True, kw_only=True):
    """The answers to one prompt, from the weights before a step."""

    step: int
    heldout: bool
    prompt: str
    messages: list[dict[str, Any]]
    reference: str = ""
    answers: list[Answer]


@dataclass(frozen=True)
class Said:
    """Completions of prompts with their rewards, those of each component, and their advantages: of tokens, of answers,
    or none. All are of one length."""

    prompts: Sequence[Prompt]
    completions: Sequence[Completion]
    rewards: Sequence[float]
    by_name: dict[str, Sequence[float]]
    advantages: Sequence[Sequence[float] | float | None]


class Transcripts:
    """The transcripts of a run, in order. One process writes them."""

    def __init__(self, place: Location, tokenizer: Any, rollouts: int) -> None:
        """`rollouts` is how many the run has: of many, only some are kept."""
        self._place, self._tokenizer = place, tokenizer
        self._every = -(-rollouts // ROLLOUTS)
        self._kept = read(place)

    def cut(self, step: int) -> None:
        """The run goes on at a step: what was said from there on is said again."""
        self._kept = [one for one in self._kept if one.step < step or (one.heldout and 0 < one.step == step)]
        self._write()

    def add_rollout(self, number: int, step: int, group_size: int, said: Said) -> None:
        """Keep the first group of a rollout."""
        if number % self._every == 0:
            self._add(step, False, group_size, said, 1)

    def add_heldout(self, step: int, said: Said) -> None:
        """Keep the first held-out answers."""
        self._add(step, True, 1, said, HELDOUT_ANSWERS)

    def _add(self, step: int, heldout: bool, group_size: int, said: Said, groups: int) -> None:
        self._kept = [one for one in self._kept if (one.step, one.heldout) != (step, heldout)]
        for first in range(0, min(groups * group_size, len(said.prompts)), group_size):
            prompt = said.prompts[first]
            self._kept.append(
                Transcript(
                    step=step,
                    heldout=heldout,
                    prompt=prompt.id,
                    messages=prompt.messages,
                    reference=prompt.reference,
                    answers=[self._answer(said, row) for row in range(first, first + group_size)],
                )
            )
        self._write()

    def _answer(self, said: Said, row: int) -> Answer:
        completion, advantages = said.completions[row], said.advantages[row]
        drawn = iter(advantages if isinstance(advantages, Sequence) else [advantages] * len(completion.logprobs))
        mine = completion.mine or [True] * len(completion.tokens)  # the others are an environment's
        by_token = [next(drawn) if own else None for own in mine]
        return Answer(
            pieces=list(pieces(self._tokenizer, said.prompts[row].tokens, completion.tokens, by_token)),
            reward=round(float(said.rewards[row]), 6),
            by_name={name: _known(values[row]) for name, values in said.by_name.items()},
            tokens=len(completion.logprobs),
            finish_reason="stop" if completion.finished else "length",
        )

    def _write(self) -> None:
        self._place.write_bytes(TRANSCRIPTS_FILE, b"".join(msgspec.json.encode(one) + b"\n" for one in self._kept))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)


def read(place: Location) -> list[Transcript]:
    if not place.exists(TRANSCRIPTS_FILE):
        return []
    return [msgspec.json.decode(line, type=Transcript) for line in place.read_bytes(TRANSCRIPTS_FILE).splitlines()]


def pieces(
    tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int], advantages: Sequence[float | None]
) -> Iterator[Piece]:
    """An answer, cut so that every piece can be read. Tokens are shown as what they say behind others: alone, the first
    would lose the blank before its word."""
    options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before, begin = list(prompt[-1:]), 0
    for end in range(1, len(tokens) + 1):
        ids = list(tokens[begin:end])
        text = tokenizer.decode(before + ids, **options).removeprefix(tokenizer.decode(before, **options))
        if text.endswith(UNFINISHED) and end < len(tokens):
            continue
        known = [value for value in advantages[begin:end] if value is not None]
        yield Piece(text, round(sum(known) / len(known), 4) if known else None)
        before, begin = ids, end


def page(found: Sequence[Transcript], title: str) -> str:
    """The transcripts as a page that needs nothing besides; of its scripts a browser runs the one that is its own."""
    strongest = max(
        (abs(p.advantage) for one in found for answer in one.answers for p in answer.pieces if p.advantage is not None),
        default=0.0,
    )
    text = TEMPLATE.read_text(encoding="utf-8")
    script = text.partition("<script>")[2].partition("</script>")[0]
    parts = {
        "TITLE": escape(title),
        "HASH": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "SUMMARY": escape(f"{len(found)} prompts, {sum(len(one.answers) for one in found)} answers"),
        "STEPS": "".join(f"<option>{step}</option>" for step in sorted({one.step for one in found})),
        "TRANSCRIPTS": "\n".join(_article(one, strongest or 1.0) for one in found),
    }
    before, *others = text.split("{{")
    return before + "".join(parts[name] + rest for name, _, rest in (other.partition("}}") for other in others))


def _article(one: Transcript, strongest: float) -> str:
    turns = "".join(
        f'<p class="soft">{escape(str(message.get("role", "")))}</p><p class="said" dir="auto">'
        f"{escape(_content(message))}</p>"
        for message in one.messages
    )
    reference = f'<p class="soft">reference</p><p class="said">{escape(one.reference)}</p>' if one.reference else ""
    kind = "held out" if one.heldout else "rollout"
    answers = "".join(_answer(answer, strongest) for answer in one.answers)
    return (
        f'<article data-step="{one.step}"><h2>step {one.step} <small>{kind}, {escape(one.prompt)}</small></h2>'
        f'<div class="request">{turns}{reference}</div><div class="answers">{answers}</div></article>'
    )


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _answer(answer: Answer, strongest: float) -> str:
    named = ", ".join(
        f"{name} {'failed' if value is None else f'{value:.3g}'}" for name, value in answer.by_name.items()
    )
    head = f"reward {answer.reward:.3g} ({named}), {answer.tokens} tokens, {answer.finish_reason}"
    text = "".join(_span(piece, strongest) for piece in answer.pieces)
    return f'<section class="answer"><h3>{escape(head)}</h3><p class="said" dir="auto">{text}</p></section>'


def _span(piece: Piece, strongest: float) -> str:
    """A piece; the stronger its advantage, the stronger its colour, in ten steps."""
    if not piece.advantage:
        return f"<span>{escape(piece.text)}</span>"
    strength = max(1, round(10 * abs(piece.advantage) / strongest))
    kind = "up" if piece.advantage > 0 else "down"
    return f'<span class="{kind} s{strength}" title="{piece.advantage:+.4g}">{escape(piece.text)}</span>'
