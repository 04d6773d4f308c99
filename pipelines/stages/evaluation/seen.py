"""Exactly the bytes that a model was trained on, so that a rival can be trained on the same.

A training sample is a pure function of (seed, position), so the consumed ones follow from the number of steps alone:
no log of the run is needed. A byte-level BPE maps each token to fixed bytes, so decoding loses nothing, wherever a
sample was cut.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from cluster.core.errors import InputError
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.tokens.stream import TokenStream


class TokenBytes:
    """The bytes of every token of a byte-level BPE; special tokens have none.

    Raises InputError for a tokenizer of another kind, whose pieces do not stand for fixed bytes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        alphabet = {character: byte for byte, character in bytes_to_unicode().items()}
        special = set(tokenizer.all_special_ids)
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        try:
            self.table = [
                b"" if index in special else bytes(alphabet[character] for character in piece)
                for index, piece in enumerate(pieces)
            ]
        except KeyError as error:
            raise InputError(f"the tokenizer is not a byte-level BPE: {error} is not in its alphabet") from None
        self.lengths = np.array([len(piece) for piece in self.table], dtype=np.int64)

    def decode(self, tokens: NDArray[np.int64]) -> bytes:
        """The bytes of `tokens`, one after another."""
        table = self.table
        return b"".join([table[token] for token in tokens.tolist()])


def seen_sequences(stream: TokenStream, positions: int) -> list[tuple[TokenStore, NDArray[np.int64]]]:
    """For each store of a run, the sorted indices of its sequences among the first `positions` positions."""
    sources, samples = stream.order.samples(0, positions)
    return [(store, np.unique(samples[sources == number])) for number, store in enumerate(stream.stores.values())]


def seen_text(store: TokenStore, sequences: NDArray[np.int64], decoder: TokenBytes) -> Iterator[bytes]:
    """The unique text of these sequences: what touches is joined, and split where a document ends.

    A sequence covers its inputs and the label behind the last of them.
    """
    for start, stop in store.covered(sequences):
        tokens = store.tokens(start, stop)
        ends = np.flatnonzero(tokens == store.eos_token_id)
        for document in np.split(tokens, ends):
            if text := decoder.decode(document):
                yield text
