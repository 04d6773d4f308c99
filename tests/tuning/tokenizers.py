"""Tokenizers: one whose merges are chosen by hand, so that a test can say which tokens a text has; published ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from tests.conftest import SHARED_DATA

END_OF_TEXT = "<|endoftext|>"
WORDS = (
    "system",
    "user",
    "assistant",
    "Be",
    "Ġbrief",
    "ask",
    "Ġmore",
    "yes",
    "Ġno",
    "###",
    "ĠInstruction",
    "ĠResponse",
)
ACROSS = ("Ċ", "Ġ")  # in a text encoded as a whole, this would join the end of a prompt to an indented answer


def by_hand() -> PreTrainedTokenizerFast:
    """Bytes, the words above, and a line end with the blank behind it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [ACROSS]
    for word in WORDS:
        merges += [(word[:end], word[end]) for end in range(1, len(word)) if (word[:end], word[end]) not in merges]
    pieces = [END_OF_TEXT, *alphabet, *("".join(merge) for merge in merges)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def with_tokens(tokenizer: Any, tokens: Iterable[str] = (), plain: Iterable[str] = (), strips: bool = False) -> Any:
    """The tokenizer with special tokens, and with `plain` ones that are not; `strips`: they eat the blanks behind."""
    added = [AddedToken(token, special=True, normalized=False, rstrip=strips) for token in tokens]
    tokenizer.add_tokens(added, special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return tokenizer


def gpt2() -> PreTrainedTokenizerFast:
    """GPT-2's byte-level BPE, without a token that marks anything."""
    folder = shared("gpt2")
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    merges = [tuple(line.split()) for line in lines if line.strip()]
    model = Tokenizer(models.BPE(json.loads((folder / "encoder.json").read_text()), merges))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=model, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def llama(**options: Any) -> Any:
    """Llama's SentencePiece tokenizer."""
    return LlamaTokenizer.from_pretrained(shared("llama"), **options)


def shared(name: str) -> Any:
    folder = SHARED_DATA / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"the tokenizer {name} is not here")
    return folder
