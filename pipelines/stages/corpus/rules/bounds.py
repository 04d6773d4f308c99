"""Plain bounds: on emptiness, on length, and on a number that the metadata brings."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Count, Rule
from pipelines.stages.corpus.rules.words import words


class NotEmpty(Rule, frozen=True):
    """Rejects documents without a visible character (`empty`)."""

    def apply(self, document: Document) -> str:
        """Rejects a document without a visible character."""
        return "" if document.text.strip() else "empty"


class Length(Rule, frozen=True):
    """Rejects documents out of bounds (`few_characters`, `many_characters`, `few_words`, `many_words`)."""

    min_characters: Count = 0
    """Shorter documents are rejected."""
    max_characters: Count = 0
    """Longer documents are rejected; 0: no bound."""
    min_words: Count = 0
    """Documents of fewer words are rejected; punctuation marks are words."""
    max_words: Count = 0
    """Documents of more words are rejected; 0: no bound."""

    def apply(self, document: Document) -> str:
        """Rejects a document out of the bounds on characters or words."""
        number = len(document.text)
        if number < self.min_characters:
            return "few_characters"
        if self.max_characters and number > self.max_characters:
            return "many_characters"
        if self.min_words or self.max_words:
            number = len(document.derive(words))
            if number < self.min_words:
                return "few_words"
            if self.max_words and number > self.max_words:
                return "many_words"
        return ""


class Signal(Rule, frozen=True):
    """Rejects by a number in the metadata, such as a quality signal of RedPajama-v2.

    The signal is a number, or RedPajama-v2's list of spans `[start, end, value]` with one span for the document.
    Reasons, each with the name after a colon: `low_signal`, `high_signal`, and `no_signal` where a document lacks it.
    """

    name: Annotated[str, Meta(min_length=1)]
    """Key in the document's metadata, or in its `quality_signals`, such as `rps_doc_word_count`."""
    min: float | None = None
    """Smaller values are rejected."""
    max: float | None = None
    """Larger values are rejected."""

    def apply(self, document: Document) -> str:
        """Rejects by a quality signal. Raises SpecError where it is not one number for the document."""
        signals = document.metadata.get("quality_signals")
        found = document.metadata.get(self.name)
        if found is None and isinstance(signals, dict):
            found = signals.get(self.name)
        value = _number(self.name, found)
        if value is None:
            return f"no_signal: {self.name}"
        if self.min is not None and value < self.min:
            return f"low_signal: {self.name}"
        if self.max is not None and value > self.max:
            return f"high_signal: {self.name}"
        return ""


def _number(name: str, found: Any) -> float | None:
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list) and len(found[0]) == 3:
        found = found[0][2]
    if found is None or isinstance(found, int | float):
        return found
    raise SpecError(
        f"the signal `{name}` is not one number for the whole document but {str(found)[:60]!r}",
        "Choose a signal of documents: in RedPajama-v2 their names begin with `rps_doc_` or `ccnet_`.",
    )
