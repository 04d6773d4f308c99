"""The perplexity stage: how well a model predicts the documents of a token store that its tokenizer made.

Bits per byte compare models of any tokenizers on one corpus; perplexity per token compares those of one tokenizer.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch
from numpy.typing import NDArray
from transformers.utils import logging

from cluster.core.adapters import context_of, open_model
from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import PerplexitySpec
from pipelines.stages.evaluation.loss import document_nll
from pipelines.stages.evaluation.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    Outcome,
    Result,
    Results,
    aggregate,
    encode_outcomes,
    encode_results,
    with_interval,
)
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.training.models.models import require_tokenizer


def build(ctx: Context[PerplexitySpec]) -> dict[str, Any]:
    """Write results.json and samples.jsonl, a document a sample.

    Raises InputError where the tokens are another tokenizer's, or do not stand for the documents of their corpus.
    """
    spec, model, tokens = ctx.spec, ctx.inputs["model"], ctx.inputs["tokens"]
    require_tokenizer(model, tokens.parent("tokenizer"))
    store = TokenStore(tokens.local(), spec.split)
    number = min(spec.max_documents or store.num_documents, store.num_documents)
    bounds = store.documents[: number + 1].tolist()
    documents = [store.tokens(begin, end - 1) for begin, end in itertools.pairwise(bounds)]
    texts = corpus_texts(tokens.parent("corpus").local(), spec.split)
    if len(texts) != store.num_documents:
        raise InputError(
            f"the token store has {store.num_documents} documents of {spec.split}, its corpus {len(texts)}",
            "Build it again.",
        )
    texts = texts[:number]

    logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if ctx.scaling.gpus_per_worker and torch.cuda.is_available() else "cpu"
    network = open_model(model, dtype=torch.float32).to(device)
    longest = context_of(model) or store.sequence_length
    context = spec.context_tokens or min(store.sequence_length, longest)
    if context > longest:
        raise InputError(f"perplexity.context_tokens: {model.record.ref} has {longest} positions", "Lower it.")
    started = time.monotonic()

    def progress(done: int, total: int) -> None:
        ctx.progress(done, total, "tokens", tokens_per_second=done / (time.monotonic() - started))

    stride = spec.stride_tokens or max(1, context // 2)
    nats = document_nll(network, documents, store.eos_token_id, context, stride, progress)
    results = write_results(ctx, tokens.parent("corpus"), spec.split, nats, documents, texts, spec.seed)
    sizes = {"documents": number, "tokens": sum(map(len, documents)), "bytes": sum(map(len, texts))}
    return {result.metric: result.value for result in results} | sizes


def corpus_texts(corpus: Path, split: str) -> list[bytes]:
    """UTF-8 bytes of the documents of a split of a corpus folder, in corpus order."""
    parts = sorted((corpus / split).glob("part-*.parquet"))
    return [text.encode() for part in parts for text in parquet.read_table(part, columns=["text"])["text"].to_pylist()]


def write_results(
    ctx: Context[Any],
    corpus: Artifact,
    split: str,
    nats: NDArray[np.float64],
    documents: Sequence[NDArray[np.int64]],
    texts: Sequence[bytes],
    seed: int = 0,
) -> list[Result]:
    """Write results.json and samples.jsonl of documents: their tokens, UTF-8 bytes, and negative log-likelihoods."""
    task = f"{corpus.record.ref}/{split}"
    results, outcomes = score(
        task, nats, [len(document) for document in documents], [len(text) for text in texts], seed
    )
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    digest = hashlib.sha256(b"\0".join(texts)).hexdigest()
    report = Results(
        model=ctx.inputs["model"].record.ref, results=results, data_sha256={task: digest}, versions=versions
    )
    ctx.output.write_bytes(SAMPLES_FILE, encode_outcomes(outcomes))
    ctx.output.write_bytes(RESULTS_FILE, encode_results(report))
    return results


def score(
    task: str, nats: NDArray[np.float64], num_tokens: Sequence[int], num_bytes: Sequence[int], seed: int
) -> tuple[list[Result], list[Outcome]]:
    """Bits per byte and perplexity per token, from each document's negative log-likelihood, shape (documents,)."""
    results, outcomes = [], []
    measures: tuple[tuple[str, Any, Sequence[int]], ...] = (
        ("bits_per_byte", "bits", num_bytes),
        ("token_perplexity", "perplexity", num_tokens),
    )
    for metric, aggregation, sizes in measures:
        own = [
            Outcome(task=task, metric=metric, id=str(number), value=-float(loss), weight=float(size))
            for number, (loss, size) in enumerate(zip(nats, sizes, strict=True))
        ]
        result = Result(
            task=task,
            metric=metric,
            value=aggregate(aggregation, [o.value for o in own], [o.weight for o in own]),
            samples=len(own),
            higher_is_better=False,
            aggregation=aggregation,
        )
        results.append(with_interval(result, own, seed))
        outcomes += own
    return results, outcomes
