"""A tokenizer of transformers as the tables of a GGUF file: byte-level BPE, and SentencePiece's BPE.

llama.cpp splits text before BPE by rules of its own, which a file names (`pre`): what it splits otherwise than the
tokenizer did is refused, because it would read texts as the model never did.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import AutoTokenizer

from cluster.core.errors import InputError

SPACE = "▁"
# What cuts texts before BPE, as tokenizer.json has it, and what llama.cpp calls that.
SPLITS: dict[tuple[str, ...], str] = {
    ("ByteLevel",): "gpt-2",
    ("Digits", "ByteLevel"): "smollm",
}


def write_vocabulary(writer: GGUFWriter, folder: Path, rows: int) -> None:
    """Add the tokenizer of a model's folder and its chat template; `rows` are those of the embedding.

    Raises InputError for a tokenizer that llama.cpp has no rules for.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    definition = json.loads(tokenizer.backend_tokenizer.to_str())
    model = definition["model"]
    if model["type"] != "BPE":
        raise InputError(f"{folder}: GGUF takes tokenizers of BPE, and this is {model['type']}", "Export it otherwise.")
    pieces = {id: piece for piece, id in model["vocab"].items()}
    added = {token["id"]: token for token in definition["added_tokens"]}
    ranks = {_joined(merge): rank for rank, merge in reversed(list(enumerate(model["merges"])))}
    spaced = bool(model.get("byte_fallback"))
    tokens, types, scores = [], [], []
    for id in range(rows):
        piece = added[id]["content"] if id in added else pieces.get(id, f"[PAD{id}]")
        tokens.append(piece)
        types.append(_type(id, piece, pieces, added, tokenizer.unk_token_id, spaced))
        scores.append(-float(ranks.get(piece, 0)))
    if spaced:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(scores)
        writer.add_add_space_prefix(_begins_with_space(definition))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(definition, folder))
        writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    for name in ("bos", "eos", "unk", "pad"):
        if (id := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(id)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(ids[-1] == tokenizer.eos_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _joined(merge: str | Sequence[str]) -> str:
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def _type(id: int, piece: str, pieces: dict[int, str], added: dict[int, Any], unknown: int | None, spaced: bool) -> int:
    if id == unknown and spaced:
        return TokenType.UNKNOWN
    if id in added:
        return TokenType.CONTROL if added[id]["special"] else TokenType.USER_DEFINED
    if id not in pieces:
        return TokenType.UNUSED
    byte = spaced and len(piece) == len("<0x00>") and piece.startswith("<0x")
    return TokenType.BYTE if byte else TokenType.NORMAL


def _split(definition: dict[str, Any], folder: Path) -> str:
    """The name of llama.cpp's rules that cut as the tokenizer does."""
    before = definition["pre_tokenizer"] or {}
    steps = before["pretokenizers"] if before.get("type") == "Sequence" else [before]
    found = SPLITS.get(tuple(step.get("type", "") for step in steps))
    plain = definition["normalizer"] is None and all(
        step.get("use_regex", True) and not step.get("add_prefix_space") and step.get("individual_digits", True)
        for step in steps
    )
    if found is None or not plain:
        raise InputError(
            f"{folder}: llama.cpp has no rules that cut texts as this tokenizer does ({json.dumps(before)[:200]})",
            "Export it as ONNX, or serve it by vLLM.",
        )
    return found


def _begins_with_space(definition: dict[str, Any]) -> bool:
    """Whether a text is read as if a blank stood before it."""
    parts = [definition["normalizer"] or {}, definition["pre_tokenizer"] or {}]
    steps = [step for part in parts for step in (part.get("normalizers") or part.get("pretokenizers") or [part])]
    return any(step.get("prepend") == SPACE or step.get("prepend_scheme") in ("first", "always") for step in steps)
