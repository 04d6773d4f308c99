"""What people typed, kept apart from what a chat template writes: no text of a message becomes a special token.

A tokenizer takes `<|im_end|>` in a rendered conversation for the token, whoever wrote it. So a mark, which is no
character, is put into every special token that a message spells, behind its first character; templates carry it along.
Where the rendered text is cut at the marks, the parts spell no special token but the template's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

Encode = Callable[[str], list[int]]

MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters: of no text that is meant to be read


_known: WeakKeyDictionary[Any, tuple[Any, re.Pattern[str] | None]] = WeakKeyDictionary()


def special_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """Where a text spells one of the special tokens of a tokenizer of transformers."""
    state = len(tokenizer), tokenizer.eos_token
    if tokenizer not in _known or _known[tokenizer][0] != state:
        found = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        _known[tokenizer] = state, spelled(found | set(tokenizer.all_special_tokens))
    return _known[tokenizer][1]


def spelled(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Where a text spells one of these tokens and can be cut behind its first character; None where none can be."""
    longer = sorted({re.escape(token) for token in tokens if len(token) > 1}, key=lambda each: (-len(each), each))
    return re.compile(rf"(?=(?:{'|'.join(longer)}))") if longer else None


def cut(text: str, tokens: re.Pattern[str] | None) -> list[str]:
    """The text in parts none of which holds one of the tokens; they join to the text."""
    if tokens is None:
        return [text]
    ends = [found.start() + 1 for found in tokens.finditer(text)]
    return [text[begin:end] for begin, end in zip([0, *ends], [*ends, len(text)], strict=True)]


def marked(messages: Sequence[dict[str, str]], tokens: re.Pattern[str] | None) -> tuple[list[dict[str, str]], str]:
    """The messages with a mark within every special token that they spell, and the mark; "" where they spell none."""
    parts = [cut(message["content"], tokens) for message in messages]
    if all(len(found) == 1 for found in parts):
        return list(messages), ""
    whole = "".join(message["content"] for message in messages)
    mark = next(mark for mark in MARKS if mark not in whole)
    return [{**m, "content": mark.join(found)} for m, found in zip(messages, parts, strict=True)], mark


def token_ids(encode: Encode, follow: Encode, text: str, mark: str) -> list[int]:
    """The ids of a rendered text, cut at its marks; `follow` encodes what stands behind other text."""
    first, *others = text.split(mark) if mark else [text]
    return [*encode(first), *(token for part in others for token in follow(part))]
