"""The tokens that objectives put into a text, found in the tokenizer that made the tokens, by their published names.

Training adds no tokens of its own: a model and its tokenizer must know the same ones.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact

Tokens = npt.NDArray[np.int64]

# Of BERT and RoBERTa; of GLM (Du et al. 2022; the published GLM-10B; ChatGLM).
NAMES = {
    "mask": ("[MASK]", "<mask>"),
    "sentence_mask": ("[sMASK]",),
    "document_mask": ("[gMASK]",),
    "start": ("<sop>", "<|startofpiece|>"),
    "end": ("<eop>", "<|endofpiece|>"),
}
SENTENCE_MARKS = (".", "!", "?", "。", "！", "？", "…")
CLOSING = "\"'”’)]」』） "


@dataclass(frozen=True)
class Markers:
    """Ids by role (`NAMES`), as many as the objectives need; `ordinary`: ids of all tokens that are not special."""

    roles: dict[str, int]
    ordinary: Tokens
    tokenizer: Tokenizer
    vocab_size: int

    @functools.cached_property
    def sentence_ends(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which ids end a sentence: by a mark that ends one, or a line; shape (vocab_size,)."""
        ends = np.zeros(self.vocab_size, dtype=np.bool_)
        texts = self.tokenizer.decode_batch([[number] for number in self.ordinary.tolist()])
        ends[self.ordinary] = ["\n" in text or text.rstrip(CLOSING).endswith(SENTENCE_MARKS) for text in texts]
        return ends


def find_markers(tokenizer: Artifact, wanted: Collection[str], vocab_size: int) -> Markers:
    """The markers of some roles. Raises InputError where the tokenizer, or the tokens' vocabulary, lacks one."""
    needed = [role for role in NAMES if role in wanted]
    if "tokenizer.json" not in tokenizer.record.files:
        raise InputError(f"{tokenizer.record.ref} has no tokenizer.json", "Take one in Hugging Face's format.")
    return markers_of(
        Tokenizer.from_str(tokenizer.location.read_bytes("tokenizer.json").decode()),
        needed,
        vocab_size,
        tokenizer.record.ref,
    )


def markers_of(tokenizer: Tokenizer, needed: Iterable[str], vocab_size: int, name: str) -> Markers:
    """The ids of the roles `needed` in a tokenizer. Raises InputError for those that are missing or out of range."""
    roles, missing = {}, []
    for role in needed:
        ids = [number for text in NAMES[role] if (number := tokenizer.token_to_id(text)) is not None]
        if ids and ids[0] < vocab_size:
            roles[role] = ids[0]
        else:
            missing.append(NAMES[role][0])
    if missing:
        raise InputError(
            f"pretrain.objective: {name} has no {', '.join(missing)} among its first {vocab_size} tokens",
            f"Make the tokenizer with tokenizer.special_tokens: [{', '.join(repr(text) for text in missing)}, ...], "
            "and the tokens by it.",
        )
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    known = {number for number in tokenizer.get_vocab().values() if number < vocab_size}
    ordinary = np.array(sorted(known - special - set(roles.values())), dtype=np.int64)
    return Markers(roles, ordinary, tokenizer, vocab_size)
