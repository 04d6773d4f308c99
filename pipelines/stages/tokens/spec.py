"""Specs of tokenizers and token stores."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.spec import Spec
from pipelines.stages.training.spec import MODELS


class TokenizerSpec(Spec, frozen=True):
    """A tokenizer trained on a sample of the train split of a corpus."""

    kind: ClassVar[str] = "tokenizer"
    stage: ClassVar[str] = "pipelines.stages.tokens.tokenizers.tokenizer:build"
    revision: ClassVar[int] = 3
    inputs: ClassVar[dict[str, str]] = {"corpus": "corpus"}

    algorithm: Literal["byte_bpe", "bpe", "wordpiece", "unigram", "characters"] = "byte_bpe"
    """`byte_bpe` as GPT-2, `bpe` as LLaMA (SentencePiece, bytes for rare characters), `unigram` as T5 (SentencePiece
    with NFKC: line ends become blanks), `wordpiece` as BERT, cased (rare characters and blanks are lost), `characters`
    as nanoGPT's small sets: every character of the sample is a token, others are unknown."""
    vocab_size: Annotated[int, Meta(ge=257)] = 2048
    """Pieces, the 256 bytes (but of `wordpiece`) and the special tokens included; of `characters` the most there may
    be."""
    sample_bytes: Annotated[int, Meta(ge=1)] = 50_000_000
    """About how much text to train on: documents of the whole train split, chosen by a hash of their ids."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens besides the end of text (`<|endoftext|>`) and the unknown token of the kinds that have one."""
    character_coverage: Annotated[float, Meta(gt=0, le=1)] = 0.9995
    """Share of the sample's characters that get a piece of their own, the most frequent first;
    `byte_bpe` and `characters` keep all."""

    def check(self) -> None:
        if len(set(self.special_tokens)) < len(self.special_tokens) or "" in self.special_tokens:
            raise SpecError("tokenizer.special_tokens: each must be there once and not be empty", "Name each once.")
        if single := [token for token in self.special_tokens if len(token) == 1]:
            raise SpecError(
                f"tokenizer.special_tokens: {single[0]!r} is a character that texts have, and cannot be told from it",
                "Give it a name of several characters, such as <|name|>.",
            )


class TokensSpec(Spec, frozen=True):
    """A corpus, encoded and packed into fixed-length sequences: a sharded store, memory-mapped in training."""

    kind: ClassVar[str] = "tokens"
    stage: ClassVar[str] = "pipelines.stages.tokens.stage:build"
    revision: ClassVar[int] = 4
    inputs: ClassVar[dict[str, str]] = {"corpus": "corpus", "tokenizer": f"tokenizer|vocabulary|{MODELS}"}
    readable_early: ClassVar[bool] = True

    sequence_length: Annotated[int, Meta(ge=2)] = 256
    """Tokens that a training sample has as inputs; its labels are the tokens behind them."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """`concatenate`: documents, an end-of-text token after each, one after another, cut wherever a sequence ends;
    `best_fit`: only documents longer than a sequence are cut, and gaps are padded (Ding et al. 2024)."""
    verify_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.002
    """Share of the documents that the reference tokenizer encodes as well, to check the fast one."""
