"""The rule that labels documents by their language, and keeps the wanted ones."""

from __future__ import annotations

from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Fraction, Positive, Rule


class Language(Rule, frozen=True):
    """Identify the language, write `language` and `language_score`, and keep the chosen ones.

    The script of most of the text decides which languages come into question, fastText's lid.176 among them.
    """

    languages: tuple[str, ...] = ()
    """ISO 639 codes to keep, as lid.176 says them (`en`, `zh`, `wuu`); empty keeps every language."""
    min_score: Fraction = 0.65
    """Reject where the best language has a lower score among those of its script (FineWeb: 0.65); 0 only labels."""
    max_characters: Positive = 10_000
    """How much of the beginning is looked at (FineWeb: everything)."""

    def apply(self, document: Document) -> str:
        """Label the document. Reasons: `language: de` where not wanted, `language_score: en` where not sure."""
        from pipelines.stages.corpus.rules.identification import identify

        name, score = identify(document.text[: self.max_characters])
        document.metadata["language"] = name
        document.metadata["language_score"] = round(score, 4)
        if self.languages and name not in self.languages:
            return f"language: {name}"
        return f"language_score: {name}" if score < self.min_score else ""
