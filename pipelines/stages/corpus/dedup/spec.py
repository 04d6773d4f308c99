"""How duplicates are found: near-duplicate documents by MinHash, repeated lines by their hashes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class MinHash(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How near-duplicates are found: MinHash LSH over runs of words.

    Two documents of Jaccard similarity s are candidates with probability 1 - (1 - s^rows)^bands.
    """

    bands: Annotated[int, Meta(ge=1, le=512)] = 14
    """Bands of the signature (FineWeb: 14)."""
    rows: Annotated[int, Meta(ge=1, le=64)] = 8
    """Hashes in a band (FineWeb: 8)."""
    shingle_words: Annotated[int, Meta(ge=1, le=50)] = 5
    """Words in a run; in text without blanks between words (Chinese, Japanese, Thai) every character is a word."""


class LineDedup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lines or paragraphs that occur in too many documents: the first occurrence stays, all others go (after CCNet)."""

    unit: Literal["line", "paragraph"] = "line"
    """What is compared: lines, or paragraphs, which blank lines separate."""
    min_characters: Annotated[int, Meta(ge=1)] = 20
    """Shorter ones are never dropped, such as `}` or `Introduction`; counted with runs of white space as one blank."""
    max_occurrences: Annotated[int, Meta(ge=1)] = 1
    """Documents that may hold the same one before it is dropped from all but the first."""
