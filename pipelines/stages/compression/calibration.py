"""Texts to calibrate on: sequences of one length out of a corpus or of conversations, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import torch
from torch import Tensor
from transformers import AutoTokenizer

from cluster.core.encoding import Refused, encode
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import PruneSpec, QuantizeSpec
from pipelines.stages.tuning.conversations import read_conversations
from pipelines.stages.tuning.templates import as_served


def calibration_sequences(model: Path, texts: Artifact, spec: QuantizeSpec | PruneSpec) -> list[Tensor]:
    """Token ids (calibration_tokens,) each, of the training part: texts in a random order, one after the other, the
    end-of-text token between them.

    Raises InputError where there are too few.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    as_served(tokenizer)
    length, wanted = spec.calibration_tokens, spec.calibration_sequences
    found: list[int] = []
    for tokens in _encoded(tokenizer, texts, random.Random(spec.seed)):
        found += [*tokens, tokenizer.eos_token_id]
        if len(found) >= wanted * length:
            return list(torch.tensor(found[: wanted * length]).view(wanted, length))
    raise InputError(
        f"{texts.record.ref} has {len(found):,} tokens to calibrate on, and {wanted} sequences of {length} are wanted",
        f"Lower {spec.kind}.calibration_sequences or {spec.kind}.calibration_tokens.",
    )


def _encoded(tokenizer: Any, texts: Artifact, rng: random.Random) -> Iterator[list[int]]:
    if texts.kind != "corpus":
        rows = read_conversations(texts.local(), "train")
        rng.shuffle(rows)
        for row in rows:
            try:
                yield encode(tokenizer, row["messages"], row.get("tools")).tokens
            except Refused:
                continue
        return
    parts = sorted((texts.local() / "train").glob("*.parquet"))
    rng.shuffle(parts)
    for part in parts:
        documents = parquet.read_table(part, columns=["text"])["text"].to_pylist()
        rng.shuffle(documents)
        for document in documents:
            yield tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
