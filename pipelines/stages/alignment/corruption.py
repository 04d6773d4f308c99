"""Damage to an answer, of the kinds that a model commits: the worse half of a preference pair, made to order.

Each kind is a pure function of a text and a random generator, meant for code and harmless to prose. One that finds
nothing to damage returns the text as it is, and another kind is tried.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from random import Random

CLOSING = ")]}'\""
NAME = re.compile(r"[^\W\d]\w*")
WORD = re.compile(r"\S+")


def drop_closing(text: str, rng: Random) -> str:
    """Lose one closing bracket or quote."""
    places = [index for index, character in enumerate(text) if character in CLOSING]
    if not places:
        return text
    place = rng.choice(places)
    return text[:place] + text[place + 1 :]


def lose_line(text: str, rng: Random) -> str:
    """Lose one line, from between the first and the last where there is any."""
    lines = text.split("\n")
    said = [index for index, line in enumerate(lines) if line.strip()]
    if len(said) < 2:
        return text
    place = rng.choice(said[1:-1] or said)
    return "\n".join(lines[:place] + lines[place + 1 :])


def shuffle_lines(text: str, rng: Random) -> str:
    """Put the lines into another order."""
    lines = text.split("\n")
    shuffled = list(lines)
    while len(set(lines)) > 1 and shuffled == lines:
        rng.shuffle(shuffled)
    return "\n".join(shuffled)


def swap_names(text: str, rng: Random) -> str:
    """Put another of the text's names in the place of about a third of its names, of one at least."""
    places = [match for match in NAME.finditer(text) if not keyword.iskeyword(match.group())]
    names = sorted({match.group() for match in places})
    if len(names) < 2:
        return text
    chosen = set(rng.sample(range(len(places)), max(1, len(places) // 3)))
    parts, done = [], 0
    for index, match in enumerate(places):
        if index in chosen:
            other = rng.choice([name for name in names if name != match.group()])
            parts += [text[done : match.start()], other]
            done = match.end()
    return "".join([*parts, text[done:]])


def break_indentation(text: str, rng: Random) -> str:
    """Move one line to the left or to the right."""
    lines = text.split("\n")
    place = rng.choice([index for index, line in enumerate(lines) if line.strip()])
    line = lines[place].lstrip()
    width = len(lines[place]) - len(line)
    lines[place] = " " * rng.choice([other for other in range(width + 4) if other != width]) + line
    return "\n".join(lines)


def repeat_words(text: str, rng: Random) -> str:
    """Say one to three words several times over."""
    words = list(WORD.finditer(text))
    first = rng.randrange(len(words))
    last = min(first + rng.randrange(3), len(words) - 1)
    run = text[words[first].start() : words[last].end()]
    return text[: words[last].end()] + f" {run}" * rng.randint(1, 4) + text[words[last].end() :]


def truncate(text: str, rng: Random) -> str:
    """Stop in the middle of a line."""
    lines = text.split("\n")
    places = [index for index, line in enumerate(lines) if len(line.strip()) > 1]
    if not places:
        return text
    place = rng.choice(places)
    line = lines[place].rstrip()
    indent = len(line) - len(line.lstrip())
    return "\n".join([*lines[:place], line[: rng.randrange(indent + 1, len(line))]]).rstrip()


KINDS: dict[str, Callable[[str, Random], str]] = {
    function.__name__: function
    for function in (
        drop_closing,
        lose_line,
        shuffle_lines,
        swap_names,
        break_indentation,
        repeat_words,
        truncate,
    )
}


def corrupt(text: str, rng: Random, kinds: Sequence[str] = tuple(KINDS)) -> tuple[str, str]:
    """The text, damaged in one of `kinds`, and its name; it always differs and is never blank, if need be by
    `repeat_words`.

    Raises ValueError for a blank text.
    """
    if not text.strip():
        raise ValueError("there is nothing to damage in a blank text")
    for name in [*rng.sample(kinds, len(kinds)), repeat_words.__name__]:
        damaged = KINDS[name](text, rng)
        if damaged != text and damaged.strip():
            return damaged, name
    raise AssertionError("repeat_words changes every text")
