"""Specs of tokenizers and token stores."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from cluster.spec import Spec


class TokenizerSpec(Spec, frozen=True):
    """A byte-level BPE tokenizer trained on the train split of a corpus."""

    kind: ClassVar[str] = "tokenizer"
    stage: ClassVar[str] = "pipelines.tokens.tokenizer:build"
    inputs: ClassVar[dict[str, str]] = {"corpus": "corpus"}

    vocab_size: Annotated[int, Meta(ge=257)] = 2048
    """Pieces, the 256 bytes and the special token included."""
    sample_bytes: Annotated[int, Meta(ge=1)] = 50_000_000
    """Text to train on, taken from the front of the (already shuffled) train split."""


class TokensSpec(Spec, frozen=True):
    """A corpus, encoded and packed into fixed-length sequences: a sharded store, memory-mapped in training."""

    kind: ClassVar[str] = "tokens"
    stage: ClassVar[str] = "pipelines.tokens.stage:build"
    inputs: ClassVar[dict[str, str]] = {"corpus": "corpus", "tokenizer": "tokenizer"}

    sequence_length: Annotated[int, Meta(ge=2)] = 256
    """Tokens of a training sample; documents are concatenated with an end-of-text token between them and cut."""
