"""Talking to a model: one small interface, whether it runs in this process or behind an endpoint.

A talker streams text. It knows whether its model has a chat template; one without (a base model) is given the running
transcript to continue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

Messages = list[dict[str, str]]

TURN = "\n\n"
SPEAKERS = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens: temperature 0 is greedy; the same seed gives the same text."""

    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0


class Talker(Protocol):
    """A model that streams text. Raises InputError for a prompt that is too long, JobError where it fails."""

    name: str

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The continuation of `prompt`, piece by piece; closing the iterator stops the model."""

    def answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        """The answer to a conversation, piece by piece."""


def transcript(messages: Messages) -> str:
    """A conversation as plain text that a base model can continue with its answer."""
    turns = [f"{SPEAKERS[message['role']]}: {message['content'].strip()}" for message in messages]
    return TURN.join([*turns, f"{SPEAKERS['assistant']}:"])


def until_user(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces up to where a base model begins to speak for the user, or to the end."""
    stop = f"{TURN.rstrip(' ')}{SPEAKERS['user']}:"
    held = ""
    for piece in pieces:
        held += piece
        if stop in held:
            yield held.split(stop, 1)[0]
            return
        # Keep back what may be the beginning of the stop text.
        keep = next((n for n in range(min(len(stop) - 1, len(held)), 0, -1) if stop.startswith(held[-n:])), 0)
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held
