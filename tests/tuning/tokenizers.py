"""A byte-level BPE whose merges are chosen by hand, so that a test can say which tokens a text has."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

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
