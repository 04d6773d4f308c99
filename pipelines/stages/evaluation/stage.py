"""The evaluation stage: what a model predicts of held-out text, beside what plain compressors make of it.

Bits per byte do not depend on the tokenizer, so models and compressors share one scale. The byte n-gram is trained
on exactly the bytes that the model saw; `xz -9` sees the held-out text alone.
"""

from __future__ import annotations

import itertools
import json
import lzma
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from cluster.core.context import Context
from cluster.core.errors import InputError
from cluster.core.model_files import fitting_tokens, read_config
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from pipelines.specs import EvaluationSpec, PretrainSpec
from pipelines.stages.evaluation.loss import document_nll
from pipelines.stages.evaluation.ngram import ngram_bits_per_byte
from pipelines.stages.evaluation.perplexity import corpus_texts, write_results
from pipelines.stages.evaluation.seen import TokenBytes, seen_sequences, seen_text
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.tokens.stream import open_stream, token_sources
from pipelines.stages.training.batch_sizes import BatchSizes


def build(ctx: Context[EvaluationSpec]) -> dict[str, Any]:
    """Write evaluation.json, completions.jsonl, results.json and samples.jsonl.

    Raises InputError where tokens and corpus do not fit together.
    """
    spec = ctx.spec
    trained, folder = ctx.inputs["model"], ctx.inputs["model"].local()
    logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if ctx.scaling.gpus_per_worker and torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    decoder = TokenBytes(tokenizer)
    texts = heldout_texts(ctx.inputs["corpus"].local())
    heldout = TokenStore(ctx.inputs["tokens"].local(), "heldout")
    if len(heldout.documents) - 1 != len(texts):
        raise InputError(
            f"the token store has {len(heldout.documents) - 1} held-out documents, the corpus {len(texts)}"
        )
    texts = beginning(texts, spec.heldout_bytes)
    documents = heldout_documents(heldout, decoder, texts)

    context = fitting_tokens(read_config(trained), heldout.sequence_length)
    started = time.monotonic()

    def progress(done: int, total: int) -> None:
        ctx.progress(done, total, "tokens", tokens_per_second=done / (time.monotonic() - started))

    losses = document_nll(
        model, documents, heldout.eos_token_id, context, spec.stride_tokens or max(1, context // 2), progress
    )
    nats, num_tokens = math.fsum(losses), sum(map(len, documents))
    write_results(ctx, ctx.inputs["corpus"], "heldout", losses, documents, texts)
    num_bytes = sum(len(text) for text in texts)
    seen = trained_text(trained, ctx.inputs["tokens"], decoder)
    metrics = {
        "bits_per_byte": nats / math.log(2) / num_bytes,
        "ngram_bits_per_byte": ngram_bits_per_byte(seen, texts, spec.ngram_order),
        "xz_bits_per_byte": xz_bits_per_byte(texts),
        "perplexity": math.exp(nats / num_tokens),
        "validation_loss": nats / num_tokens,
        "heldout_documents": len(texts),
        "heldout_bytes": num_bytes,
        "heldout_tokens": num_tokens,
        "seen_bytes": sum(len(text) for text in seen),
    }
    completions = [
        {"prompt": prompt, "completion": complete(model, tokenizer, prompt, spec.completion_tokens)}
        for prompt in spec.prompts
    ]
    lines = [json.dumps(completion, ensure_ascii=False) + "\n" for completion in completions]
    ctx.output.write_bytes("completions.jsonl", "".join(lines).encode())
    ctx.output.write_bytes("evaluation.json", (json.dumps(metrics, indent=2) + "\n").encode())
    return metrics


def heldout_texts(corpus: Path) -> list[bytes]:
    """UTF-8 bytes of the held-out documents of a corpus folder, in corpus order. Raises InputError for none."""
    texts = corpus_texts(corpus, "heldout")
    if not any(texts):
        raise InputError(f"{corpus}/heldout holds no text", "Raise corpus.heldout_fraction or the corpus's size.")
    return texts


def beginning(texts: list[bytes], limit: int) -> list[bytes]:
    """The documents that begin within the first `limit` bytes; all for 0."""
    starts = [0, *itertools.accumulate(map(len, texts))]
    return [text for start, text in zip(starts, texts, strict=False) if not limit or start < limit]


def heldout_documents(store: TokenStore, decoder: TokenBytes, texts: list[bytes]) -> list[NDArray[np.int64]]:
    """Token ids of the first documents, without their eos. Raises InputError where they do not spell their bytes.

    Bits per byte divide one's surprise by the other's length: that they are the same text is checked, not assumed.
    """
    bounds = store.documents[: len(texts) + 1].tolist()
    documents = []
    for index, (begin, end, text) in enumerate(zip(bounds, bounds[1:], texts, strict=False)):
        document = store.tokens(begin, end - 1)
        if decoder.decode(document) != text:
            raise InputError(f"held-out document {index} of the token store is not the corpus's", "Build tokens again.")
        documents.append(document)
    return documents


def trained_text(trained: Artifact, tokens: Artifact, decoder: TokenBytes) -> list[bytes]:
    """The unique text that a pretrain artifact consumed, of all sources where they were several.

    Raises InputError where it was not trained on `tokens`.
    """
    seen = trained.parent("tokens")
    if tokens.fingerprint not in {source.fingerprint for source in token_sources(seen).values()}:
        raise InputError(f"{trained.record.ref} was not trained on {tokens.record.ref}", "Give the tokens it saw.")
    positions = BatchSizes.of(convert(trained.spec, PretrainSpec, "pretrain")).before(trained.metrics["steps"])
    stream = open_stream(seen, trained.spec["seed"], positions, trained.spec["window_shards"])
    sequences = seen_sequences(stream, positions)
    return [text for store, numbers in sequences for text in seen_text(store, numbers, decoder)]


def xz_bits_per_byte(texts: list[bytes]) -> float:
    """Bits per byte of the concatenated texts under `xz -9`."""
    joined = b"".join(texts)
    return 8 * len(lzma.compress(joined, preset=9)) / len(joined)


def complete(model: Any, tokenizer: PreTrainedTokenizerBase, prompt: str, max_tokens: int) -> str:
    """The model's greedy completion of `prompt`, without the prompt, in at most `max_tokens` tokens."""
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(model.device)
    output = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
