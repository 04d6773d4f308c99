"""The rule against evaluation data in the training data; `evaluation_ngrams.py` finds them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from cluster.core.specs.naming import File
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import Count, Positive, Rule
from pipelines.stages.corpus.rules.unicode import well_formed


class Decontaminate(Rule, frozen=True):
    """Reject or cut what overlaps evaluation data by n-grams of words (GPT-3, Brown et al. 2020, appendix C).

    Words are split at white space, lower-cased, without punctuation. Every Chinese, Japanese or Thai letter is a word,
    and strings of them need twice as many (ours): 13 letters are a phrase. GPT-3 also spared n-grams that are common
    in the training data, which a stream cannot know; `max_items` spares those common in the evaluation data instead,
    and n-grams that are numbers for the most part are passed over (ours).
    """

    paths: Annotated[tuple[File, ...], Meta(min_length=1)]
    """Files, folders or globs: .jsonl, .json, .csv, .tsv, .txt (an item a line), compressed, or .zip of these."""
    ngram_words: Annotated[int, Meta(ge=2, le=100)] = 13
    """Words in an n-gram (GPT-3: 13 at most)."""
    min_words: Positive = 8
    """Shorter strings of the evaluation data are passed over; from here to `ngram_words` all must match (GPT-3: 8)."""
    max_items: Positive = 10
    """An n-gram that more items hold is a template and no overlap (ours)."""
    action: Literal["reject", "cut"] = "reject"
    """`cut` removes the overlap and `margin_characters` around it, and rejects what is cut too often."""
    margin_characters: Count = 200
    """Text cut on each side of an overlap (GPT-3: 200)."""
    min_fragment_characters: Count = 200
    """Shorter fragments between cuts are dropped (GPT-3: 200)."""
    max_fragments: Positive = 10
    """A document cut into more fragments is rejected (GPT-3: 10)."""

    def apply(self, document: Document) -> str:
        """Reject or cut. Reason: `contaminated: file:record`, the item of the longest n-gram, the first in the text."""
        from pipelines.stages.corpus.rules.evaluation_ngrams import overlaps

        name, runs = overlaps(document.text, self.paths, self.ngram_words, self.min_words, self.max_items)
        if not runs:
            return ""
        fragments = self._fragments(document.text, runs) if self.action == "cut" else []
        if not fragments or len(fragments) > self.max_fragments:
            return f"contaminated: {name}"
        document.text = "\n\n".join(fragments)
        return ""

    def _fragments(self, text: str, runs: list[tuple[int, int]]) -> list[str]:
        """What is left between the runs of words and their margins, without the short pieces."""
        from pipelines.stages.corpus.rules.evaluation_ngrams import word_spans

        text = well_formed(text)
        spans = word_spans(text)
        fragments = []
        position = 0
        for first, last in runs:
            fragments.append(text[position : max(position, spans[first][0] - self.margin_characters)])
            position = max(position, spans[last - 1][1] + self.margin_characters)
        fragments.append(text[position:])
        stripped = [fragment.strip() for fragment in fragments]
        return [fragment for fragment in stripped if fragment and len(fragment) >= self.min_fragment_characters]
