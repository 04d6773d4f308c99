"""Training a byte-level BPE tokenizer (Sennrich et al. 2016; Radford et al. 2019) on the train split of a corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from cluster.context import Context
from cluster.errors import InputError
from cluster.specs import TokenizerSpec

END_OF_TEXT = "<|endoftext|>"


def build(ctx: Context[TokenizerSpec]) -> dict[str, Any]:
    """Write a Hugging Face tokenizer folder."""
    from transformers import PreTrainedTokenizerFast

    trained = train(_sample(ctx.inputs["corpus"].local(), ctx.spec.sample_bytes), ctx.spec.vocab_size)
    if trained.get_vocab_size() != ctx.spec.vocab_size:
        raise InputError(
            f"tokenizer.vocab_size: the corpus yields only {trained.get_vocab_size()} pieces "
            f"of the {ctx.spec.vocab_size} asked for",
            "Give a smaller vocabulary or more text.",
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=trained, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    with ctx.scratch() as folder:
        wrapped.save_pretrained(folder)
        ctx.output.put(folder)
    return {"vocab_size": ctx.spec.vocab_size}


def train(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE whose alphabet is all 256 bytes, so that no text is unknown to it. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _sample(corpus: Path, sample_bytes: int) -> Iterator[str]:
    """Documents from the front of the shuffled train split until `sample_bytes` have been given."""
    given = 0
    for path in sorted((corpus / "train").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=["text"]):
            for text in batch.column("text").to_pylist():
                if given >= sample_bytes:
                    return
                given += len(text.encode())
                yield text
