"""Conversations that are longer than a sequence: left out, without their oldest turns, or without their end.

Turns are cut before a conversation is rendered, so that the template says of the rest what it says of a conversation
that began there. Whatever is lost is counted.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Literal

from cluster.core.encoding import Encoded
from cluster.core.errors import InputError

Row = dict[str, Any]  # of conversations: `id`, `messages`, ...
Policy = Literal["reject", "cut-turns", "cut-end"]


class Fitting:
    """Encodes conversations as examples of at most `longest` tokens by a policy, and counts what comes of them.

    `counts`: `conversations` that are learned, of these `cut` ones; `too_long` ones, of which nothing is; ones that
    have `nothing_to_learn`; and `lost_tokens`, those of examples that were left out or cut off for their length.
    """

    def __init__(
        self,
        encode: Callable[[Row], list[Encoded]],
        longest: int,
        policy: Policy,
        refused: Container[str] = (),
    ) -> None:
        """`refused`: the ids of conversations that `encode` could not render, and counts itself."""
        self.encode, self.longest, self.policy, self.refused = encode, longest, policy, refused
        self.counts = Counter({"conversations": 0, "cut": 0, "too_long": 0, "nothing_to_learn": 0, "lost_tokens": 0})
        self.shortest: tuple[int, str] | None = None  # of those that are too long: tokens, id
        self.prompts: list[tuple[int, str]] = []  # of those whose first prompt is: its tokens, id

    def examples(self, rows: Iterable[Row]) -> Iterator[list[Encoded]]:
        """The examples of each conversation of which something is learned."""
        for row in rows:
            if found := self.of(row):
                yield found

    def of(self, row: Row) -> list[Encoded]:
        """The examples of a conversation; none where it is left out."""
        whole = learned(self.encode(row))
        if not whole:
            self.counts["nothing_to_learn"] += row["id"] not in self.refused
            return []
        found = whole
        if not self.fit(whole):
            self._note(row, whole)
            if self.policy == "cut-turns":
                found = self.without_oldest_turns(row)
            elif self.policy == "cut-end":
                found = learned(Encoded(one.tokens[: self.longest], one.learn[: self.longest]) for one in whole)
            else:
                found = []
            self.counts["cut" if found else "too_long"] += 1
            self.counts["lost_tokens"] += tokens(whole) - tokens(found)
        self.counts["conversations"] += bool(found)
        return found

    def fit(self, examples: list[Encoded]) -> bool:
        return all(len(one.tokens) <= self.longest for one in examples)

    def without_oldest_turns(self, row: Row) -> list[Encoded]:
        """The examples of a conversation without as few of its oldest turns as make them fit; none where its last turn
        alone does not fit. Fewer turns make no more tokens."""
        head, turns = split_turns(row["messages"])

        def rest(count: int) -> list[Encoded]:
            return self.encode(row | {"messages": [*head, *(one for turn in turns[count:] for one in turn)]})

        count = bisect_left(range(len(turns)), True, lo=1, key=lambda count: self.fit(rest(count)))
        return learned(rest(count)) if count < len(turns) else []

    def require(self, what: str) -> None:
        """Raise InputError where nothing fits, or under `reject` a prompt alone is too long. `what` is in `longest`
        tokens to be: some artifact's split."""
        if not self.counts["conversations"] and self.shortest:
            length, id = self.shortest
            raise InputError(
                f"{what}: no conversation fits into {self.longest} tokens ({self.counts['too_long']} are too long); "
                f"the shortest, {id}, has {length}",
                "Raise sft.sequence_length (or take a model of a longer context), or give more conversations.",
            )
        if self.policy == "reject" and self.prompts:
            length, id = self.prompts[0]
            also = f" (so do {len(self.prompts) - 1} more)" if len(self.prompts) > 1 else ""
            raise InputError(
                f"{what}: the prompt of conversation {id} takes {length} tokens, and a sequence has {self.longest}: "
                f"there is no room for an answer{also}",
                "Raise sft.sequence_length (or take a model of a longer context), or set sft.too_long to cut-turns or "
                "cut-end, which leave out and count what does not fit even so.",
            )
        if not self.counts["conversations"]:
            raise InputError(
                f"{what}: no conversation has an answer to learn ({self.counts['nothing_to_learn']} are there)",
                "Give conversations with answers that are not marked `learn: false`.",
            )

    def _note(self, row: Row, whole: list[Encoded]) -> None:
        length, prompt = max(len(one.tokens) for one in whole), whole[0].learn.index(True)
        self.shortest = min(self.shortest or (length, row["id"]), (length, row["id"]))
        if prompt >= self.longest:
            self.prompts.append((prompt, row["id"]))


def split_turns(messages: list[Any]) -> tuple[list[Any], list[list[Any]]]:
    """The system messages that a conversation begins with, and its turns: each a request, and all up to the next."""
    begins = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    turns: list[list[Any]] = []
    for message in messages[begins:]:
        if not turns or message["role"] == "user":
            turns.append([])
        turns[-1].append(message)
    return messages[:begins], turns


def learned(examples: Iterable[Encoded]) -> list[Encoded]:
    """Those of which something is learned."""
    return [one for one in examples if any(one.learn)]


def tokens(examples: list[Encoded]) -> int:
    return sum(len(one.tokens) for one in examples)
