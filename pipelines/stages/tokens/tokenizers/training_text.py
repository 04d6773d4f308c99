"""The text that a tokenizer is trained on, cut where nothing is to be learned across.

Trainers take time that grows with the square of a word's length, and a word may be a whole line: a genome, base64, a
minified script, a rule of dashes, blanks. So runs are cut every `LONGEST` characters. A special token that a text
spells is cut behind its first character, so that no piece is learned that would be one with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import regex

LONGEST = 256  # of a word in training: more than any that is one
# What the trainers' words consist of: GPT-2's kinds of characters (Radford et al. 2019), or whatever is not blank.
BYTE_LEVEL = (r"\p{L}", r"\p{N}", r"[^\s\p{L}\p{N}]", r"\s")
BETWEEN_BLANKS = (r"\S", r"\s")


def cut(texts: Iterable[str], special_tokens: Iterable[str] = (), kinds: tuple[str, ...] = BYTE_LEVEL) -> Iterator[str]:
    """The texts in parts; the same text gives the same parts, and they join to it."""
    runs = [f"{kind}{{{LONGEST}}}(?={kind})" for kind in kinds]
    spelled = [f"{regex.escape(token[0])}(?={regex.escape(token[1:])})" for token in special_tokens if len(token) > 1]
    pattern = regex.compile("|".join(spelled + runs))
    for text in texts:
        begin = 0
        for found in pattern.finditer(text):
            yield text[begin : found.end()]
            begin = found.end()
        yield text[begin:]
