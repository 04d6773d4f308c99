"""Which training documents share long runs of words with an answer, and under which licences they are.

A run that is shared says where words may come from, not that they were learned there: common phrases are shared by
many.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from cluster.core.errors import InputError
from cluster.core.lineage import ancestry
from cluster.core.storage.artifact import Artifact
from pipelines.stages import licenses
from pipelines.stages.corpus.ngram_index import FOUND_WORDS, NgramIndex, documents
from pipelines.stages.corpus.rules.evaluation_ngrams import word_spans, words
from pipelines.stages.corpus.rules.unicode import well_formed

CANDIDATES = 200  # documents that are read: those that share the most n-grams


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """A training document that shares runs of words with an answer. `share`: the part of the answer's words in them."""

    corpus: str
    document: str
    source: str
    license: str
    url: str
    longest_words: int
    share: float
    text: str
    """The longest run, as the answer has it."""


def corpora_of(artifact: Artifact) -> list[Artifact]:
    """The corpora that a model comes from. Raises InputError for none."""
    found = [each for each in ancestry([artifact]) if each.kind == "corpus"]
    if not found:
        raise InputError(f"{artifact.record.ref} comes from no corpus of this store", "See `ctl artifacts lineage`.")
    return found


def shared_with(corpora: Iterable[Artifact], answer: str, min_words: int = FOUND_WORDS) -> list[Shared]:
    """The documents that share a run of `min_words` with an answer, those with the longest first; of each corpus the
    `CANDIDATES` likeliest are compared word by word."""
    text = well_formed(answer)
    spans, own = word_spans(text), words(text)
    found = []
    for corpus in corpora:
        likely = NgramIndex.of(corpus).candidates(text)
        chosen = sorted(likely, key=lambda number: (-likely[number], number))[:CANDIDATES]
        for _, row in documents(corpus, chosen):
            runs = shared_runs(own, words(well_formed(row["text"])), min_words)
            if not runs:
                continue
            start, stop = max(runs, key=lambda run: (run[1] - run[0], -run[0]))
            within = {place for run in runs for place in range(*run)}
            found.append(
                Shared(
                    corpus=corpus.record.ref,
                    document=row["id"],
                    source=row["source"],
                    license=licenses.normalize(row["license"]),
                    url=row["url"],
                    longest_words=stop - start,
                    share=len(within) / len(own),
                    text=text[spans[start][0] : spans[stop - 1][1]],
                )
            )
    return sorted(found, key=lambda each: (-each.longest_words, -each.share, each.corpus, each.document))


def shared_runs(own: list[bytes], others: list[bytes], min_words: int) -> list[tuple[int, int]]:
    """The longest runs of words, [start, stop) in `own`, of `min_words` at least that are in `others`, too."""
    starts: dict[tuple[bytes, ...], list[int]] = {}
    for place in range(len(own) - min_words + 1):
        starts.setdefault(tuple(own[place : place + min_words]), []).append(place)
    runs = set()
    for other in range(len(others) - min_words + 1):
        for place in starts.get(tuple(others[other : other + min_words]), ()):
            if place and other and own[place - 1] == others[other - 1]:
                continue  # within a longer one
            length = min_words
            while (
                place + length < len(own)
                and own[place + length : place + length + 1] == others[other + length : other + length + 1]
            ):
                length += 1
            runs.add((place, place + length))
    return sorted(runs)


def answer_in(saved: str) -> str:
    """The text of a saved answer: of OpenAI's JSON what was written, else all of it."""
    try:
        told = json.loads(saved)
    except ValueError:
        return saved
    if not isinstance(told, dict):
        return saved
    body = (told.get("response") or {}).get("body") if isinstance(told.get("response"), dict) else None
    told = body if isinstance(body, dict) else told
    parts = []
    for choice in told.get("choices") or ():
        message = choice.get("message") or {}
        parts.append(choice.get("text") or message.get("content") or "")
    for item in told.get("output") or ():
        parts += [part.get("text") or "" for part in item.get("content") or ()]
    return "\n\n".join(parts) if parts else saved
