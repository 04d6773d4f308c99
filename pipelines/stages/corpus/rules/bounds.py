"""Plain bounds: on emptiness, on length, and on a number that the metadata brings."""

from __future__ import annotations

from typing import Any

from cluster.core.errors import SpecError
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.filters import Length, NotEmpty, Signal
from pipelines.stages.corpus.rules.words import words


def not_empty(document: Document, config: NotEmpty) -> str:
    """Rejects a document without a visible character."""
    return "" if document.text.strip() else "empty"


def length(document: Document, config: Length) -> str:
    """Rejects a document out of the bounds on characters or words."""
    number = len(document.text)
    if number < config.min_characters:
        return "few_characters"
    if config.max_characters and number > config.max_characters:
        return "many_characters"
    if config.min_words or config.max_words:
        number = len(document.derive(words))
        if number < config.min_words:
            return "few_words"
        if config.max_words and number > config.max_words:
            return "many_words"
    return ""


def signal(document: Document, config: Signal) -> str:
    """Rejects by a quality signal. Raises SpecError where it is not one number for the document."""
    signals = document.metadata.get("quality_signals")
    found = document.metadata.get(config.name)
    if found is None and isinstance(signals, dict):
        found = signals.get(config.name)
    value = _number(config.name, found)
    if value is None:
        return f"no_signal: {config.name}"
    if config.min is not None and value < config.min:
        return f"low_signal: {config.name}"
    if config.max is not None and value > config.max:
        return f"high_signal: {config.name}"
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
