"""What a tokenizer costs by language: coverage, fertility (Rust et al. 2021) and compression."""

from __future__ import annotations

import functools
import json
from collections import Counter, defaultdict
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from cluster.core.storage.location import Location
from pipelines.stages.corpus.rules.identification import identify
from pipelines.stages.tokens.tokenizers.sampling import sample

UNSEGMENTED = {"zh", "wuu", "yue", "ja", "th", "lo", "km", "my", "bo"}  # blanks do not part words
WHITE_BYTES = b"\t\n\r"
BATCH_TEXTS = 256
LANGUAGE_CHARACTERS = 2000  # looked at where a document does not say its language


def by_language(corpus: Location, sample_bytes: int) -> dict[str, list[str]]:
    """Held-out texts of a corpus by the language that the document says it is of, or that lid.176 takes it for."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in sample(corpus, "heldout", sample_bytes, "fertility"):
        language = json.loads(row.get("metadata") or "{}").get("language")
        found[language or identify(row["text"][:LANGUAGE_CHARACTERS])[0]].append(row["text"])
    return dict(sorted(found.items()))


def compare(texts: list[str], before: Tokenizer, after: Tokenizer, language: str) -> dict[str, Any]:
    """The figures of two tokenizers on texts, and the share of the texts whose ids are the same."""
    tallies, same = (_Tally(before), _Tally(after)), 0
    for start in range(0, len(texts), BATCH_TEXTS):
        old, new = (tally.add(texts[start : start + BATCH_TEXTS]) for tally in tallies)
        same += sum(a.ids == b.ids for a, b in zip(old, new, strict=True))
    return {
        "documents": len(texts),
        "characters": sum(map(len, texts)),
        "same_ids": same / len(texts) if texts else 1.0,
        "before": tallies[0].figures(language),
        "after": tallies[1].figures(language),
    }


def measure(texts: list[str], tokenizer: Tokenizer, language: str) -> dict[str, float]:
    """Coverage, tokens a character, tokens a word where blanks part words, bytes a token.

    A character is covered unless it is unknown, is spelled in bytes, or is cut over several byte-level tokens; line
    ends and tabs, which LLaMA has as bytes alone, count as covered.
    """
    tally = _Tally(tokenizer)
    for start in range(0, len(texts), BATCH_TEXTS):
        tally.add(texts[start : start + BATCH_TEXTS])
    return tally.figures(language)


class _Tally:
    """What one tokenizer has made of texts so far."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.uncovered = tokenizer, _Uncovered(tokenizer)
        self.counts: Counter[str] = Counter()

    def add(self, texts: list[str]) -> list[Any]:
        """Encode and count more texts; the encodings."""
        encodings: list[Any] = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        self.counts["tokens"] += sum(len(encoding.ids) for encoding in encodings)
        self.counts["characters"] += sum(map(len, texts))
        self.counts["words"] += sum(len(text.split()) for text in texts)
        self.counts["bytes"] += sum(len(text.encode()) for text in texts)
        self.counts["uncovered"] += sum(map(self.uncovered, encodings))
        return encodings

    def figures(self, language: str) -> dict[str, float]:
        tokens, characters = self.counts["tokens"], max(self.counts["characters"], 1)
        figures = {
            "coverage": 1 - self.counts["uncovered"] / characters,
            "tokens_per_character": tokens / characters,
            "bytes_per_token": self.counts["bytes"] / max(tokens, 1),
        }
        if language not in UNSEGMENTED:
            figures["tokens_per_word"] = tokens / max(self.counts["words"], 1)
        return {name: round(figure, 4) for name, figure in figures.items()}


class _Uncovered:
    """Counts the characters of an encoding that have no piece of their own and are in none."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        definition = json.loads(tokenizer.to_str())
        self.byte_level = '"ByteLevel"' in json.dumps(definition["pre_tokenizer"])
        ids = {tokenizer.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
        self.first_bytes = {
            token
            for token, byte in ids.items()
            if token is not None and byte & 0xC0 != 0x80 and byte not in WHITE_BYTES
        }
        unknown = definition["model"].get("unk_token")
        unknown_id = tokenizer.token_to_id(unknown) if unknown else definition["model"].get("unk_id")
        self.unknown = None if self.byte_level else unknown_id

    def __call__(self, encoding: Any) -> int:
        if self.byte_level:
            return self._cut(encoding.tokens)
        found = sum(token in self.first_bytes for token in encoding.ids)
        if self.unknown in encoding.ids:
            spans = zip(encoding.ids, encoding.offsets, strict=True)
            found += sum(end - start for token, (start, end) in spans if token == self.unknown)
        return found

    def _cut(self, tokens: list[str]) -> int:
        """Characters with the end of a token inside them."""
        text = np.frombuffer(spell("".join(tokens)), dtype=np.uint8)
        starts = text & 0xC0 != 0x80
        ends = np.cumsum([len(token) for token in tokens], dtype=np.int64)[:-1]
        character = np.cumsum(starts)
        return len(np.unique(character[ends[~starts[ends]]]))


def spell(piece: str) -> bytes:
    """The bytes that a byte-level piece stands for."""
    letters = _byte_alphabet()
    return bytes(letters[letter] for letter in piece)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others follow behind 255, in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(others)}
