"""Running one rule over one text."""

from __future__ import annotations

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Rule, apply


def run(rule: Rule, text: str, url: str = "") -> tuple[str, str]:
    """The text after a rule, and its reason."""
    document = Document("d", text, url=url)
    reason = apply([rule], document)[1]
    return document.text, reason


def cleaned(rule: Rule, text: str) -> str:
    """The text after a rule that keeps it."""
    text, reason = run(rule, text)
    assert reason == ""
    return text
