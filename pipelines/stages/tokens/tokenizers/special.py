"""Special tokens in ordinary text: whoever spells one has written its letters.

`tokenizers` can be told not to look for special tokens in a text. A model can still find one by itself: as a piece of
its vocabulary (WordPiece, unigram), or as what its merges make (BPE). Tokenizers that are trained here have no such
piece; those of others may.
"""

from __future__ import annotations

import re
from typing import Any

BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
HIDDEN = "\ufdd0 "  # begins the name of a piece that no text has: no character, and a blank within


def unspoken(definition: dict[str, Any]) -> dict[str, Any]:
    """A `tokenizer.json` whose model finds no special token in a text; all ids stay.

    A token that could be found is given a name that no text has, and the text then has the pieces that remain. One of a
    single character stays as it is: there may be nothing else to encode that character by.
    """
    model = definition["model"]
    special = {token["content"] for token in definition["added_tokens"] if token["special"]}
    found = {name for name in special & reachable(model) if len(name) > 1 and not BYTE_PIECE.fullmatch(name)}
    if not found:
        return definition
    names = {name: HIDDEN + name for name in found}
    if isinstance(model["vocab"], dict):
        vocabulary: Any = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
    else:
        vocabulary = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    model = model | {"vocab": vocabulary}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [list(sides) for sides in merges(model) if not found & {*sides, "".join(sides)}]
    tokens = [
        token | {"content": names.get(token["content"], token["content"])} for token in definition["added_tokens"]
    ]
    return definition | {"model": model, "added_tokens": tokens, "post_processor": None}


def reachable(model: dict[str, Any]) -> set[str]:
    """The pieces that a model can find in a text. Apart from those of one character or byte, and from what WordPiece
    has for words that it does not know, which stands for them whatever they are."""
    if "merges" in model and not model.get("ignore_merges"):
        return {"".join(sides) for sides in merges(model)}
    vocabulary = model.get("vocab", ())
    found = set(vocabulary) if isinstance(vocabulary, dict) else {piece for piece, _ in vocabulary}
    return found if "merges" in model else found - {model.get("unk_token")}


def merges(model: dict[str, Any]) -> list[tuple[str, ...]]:
    """The merges of a BPE, which older files have as text."""
    return [tuple(one.split(" ")) if isinstance(one, str) else tuple(one) for one in model["merges"]]
