"""Talking to a model: one small interface, whether it runs in this process or behind an endpoint.

A talker streams text. It knows whether its model has a chat template; one without (a base model) is given the running
transcript to continue. Lengths follow from the model's context: `fitted` makes room for an answer before it is asked.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from cluster.core.errors import InputError

Messages = list[dict[str, str]]
Prompt = TypeVar("Prompt", str, Messages)

ANSWER_SHARE = 4  # of a context, one part is kept for the answer while older turns can make room

TURN = "\n\n"
SPEAKERS = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, `max_tokens` at most: temperature 0 is greedy; the same seed gives the same text."""

    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0


class Talker(Protocol):
    """A model that streams text. Raises InputError for a prompt that is too long, JobError where it fails.

    `context_tokens` is the longest sequence of prompt and answer that the model takes, 0 where it is not known.
    """

    name: str
    context_tokens: int

    def count(self, prompt: str | Messages, max_tokens: int) -> int:
        """Tokens of a prompt: exactly, or at most where `max_tokens` surely fit behind it."""

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The continuation of `prompt`, piece by piece; closing the iterator stops the model."""

    def answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        """The answer to a conversation, piece by piece."""


def fitted(talker: Talker, prompt: Prompt, sampling: Sampling) -> tuple[Prompt, Sampling]:
    """What to ask so that prompt and answer fit into the context: the oldest turns are dropped, the answer is cut.

    Raises InputError where the last message alone leaves no room for an answer.
    """
    if not talker.context_tokens:
        return prompt, sampling
    wanted = min(sampling.max_tokens, max(1, talker.context_tokens // ANSWER_SHARE))
    while (room := talker.context_tokens - talker.count(prompt, sampling.max_tokens)) < wanted and len(prompt) > 1:
        if isinstance(prompt, str):
            break
        begins = (number for number, message in enumerate(prompt) if number and message["role"] == "user")
        prompt = prompt[next(begins, len(prompt) - 1) :]  # without the oldest question and its answer
    if room < 1:
        raise too_long(talker.context_tokens)
    return prompt, replace(sampling, max_tokens=min(sampling.max_tokens, room))


class DoesNotWrite(InputError):
    """The model makes something else than texts: nobody can talk to it."""


def too_long(context_tokens: int) -> InputError:
    return InputError(f"the text does not fit into the model's context of {context_tokens} tokens", "Shorten it.")


def transcript(messages: Messages) -> str:
    """A conversation as plain text that a base model can continue with its answer."""
    turns = [_spoken(SPEAKERS.get(message["role"], ""), message["content"].strip()) for message in messages]
    return TURN.join([*turns, f"{SPEAKERS['assistant']}:"])


def _spoken(speaker: str, text: str) -> str:
    return f"{speaker}: {text}" if speaker else text  # a system prompt is nobody's


def until_user(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces up to where a base model begins to speak for the user, or to the end."""
    yield from until(pieces, f"{TURN.rstrip(' ')}{SPEAKERS['user']}:")


def until(pieces: Iterator[str], *stops: str) -> Generator[str, None, bool]:
    """The pieces up to the first of some texts that comes in them, or to the end; returns whether one came."""
    held, longest = "", max(map(len, stops), default=0)
    for piece in pieces:
        held += piece
        if places := [place for stop in stops if (place := held.find(stop)) >= 0]:
            yield held[: min(places)]
            return True
        # Keep back what may be the beginning of such a text.
        ends = range(min(longest - 1, len(held)), 0, -1)
        keep = next((n for n in ends if any(stop.startswith(held[-n:]) for stop in stops)), 0)
        if len(held) > keep:
            yield held[: len(held) - keep]
            held = held[len(held) - keep :]
    if held:
        yield held
    return False
