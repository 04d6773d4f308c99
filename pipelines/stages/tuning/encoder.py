"""Rows of conversations as examples; those that the chat template cannot render are set aside with the reasons."""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster.core.encoding import Encoded, Refused, examples
from cluster.core.errors import InputError

MOST_REFUSED = 0.5  # a template that refuses a larger share is not the one for these conversations


class Encoder:
    """Encodes rows under a prepared tokenizer's template. `refused` has the reason by the id of a row."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.asked: set[str] = set()
        self.refused: dict[str, str] = {}

    def __call__(self, row: dict[str, Any]) -> list[Encoded]:
        """The examples of a row; none where the template refuses it, or where no answer of it is to be learned."""
        again = row["id"] in self.asked  # a part of it
        self.asked.add(row["id"])
        try:
            return examples(self.tokenizer, row["messages"], row.get("tools"))
        except Refused as error:
            if not again:
                self.refused[row["id"]] = error.reason
            return []

    def require(self, what: str) -> None:
        """Raise InputError where the template refuses more than half of the rows, which are those of `what`."""
        if len(self.refused) <= MOST_REFUSED * len(self.asked):
            return
        reason, count = next(iter(self.reasons().items()))
        raise InputError(
            f"{what}: the chat template cannot render {len(self.refused)} of {len(self.asked)} conversations; "
            f"of {count} it says or shows that it {reason}",
            "Choose another sft.template, or leave them out; `ctl tune preview` shows what would be learned.",
        )

    def reasons(self) -> dict[str, int]:
        """How many rows are refused for what, the commonest first."""
        return dict(Counter(self.refused.values()).most_common())
