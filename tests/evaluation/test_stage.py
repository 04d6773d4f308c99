"""The evaluation stage on a small run: what it counts, and what it refuses."""

from __future__ import annotations

import json
import lzma
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.core.errors import InputError
from cluster.core.storage.store import Store, problems
from cluster.pipeline import build
from pipelines.specs import EvaluationSpec
from pipelines.stages.evaluation.paired import read
from pipelines.stages.evaluation.seen import TokenBytes, seen_text
from pipelines.stages.evaluation.stage import heldout_documents, heldout_texts, xz_bits_per_byte
from pipelines.stages.tokens.order import Order
from pipelines.stages.tokens.reader import TokenStore
from tests.evaluation.tiny_run import LENGTH, PRETRAIN, STEPS, make_data, make_model, write_sources

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("ray_cluster")]
SPEC = EvaluationSpec(prompts=("def function", "Straße 文"), completion_tokens=8)


@torch.inference_mode()
def naive_bits(folder: Path, documents: list[np.ndarray], eos: int) -> float:
    """Documents one at a time, first half context and then half a context at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    bits = 0.0
    for document in documents:
        sequence, scored = [eos, *document.tolist()], 0
        while scored < len(document):
            end = min(scored + (LENGTH // 2 if scored else LENGTH), len(document))
            begin = max(0, end - LENGTH)
            losses = torch.log_softmax(model(torch.tensor([sequence[begin:end]])).logits[0].double(), -1)
            for label in range(scored + 1, end + 1):
                bits -= float(losses[label - 1 - begin, sequence[label]]) / math.log(2)
            scored = end
    return bits


def test_evaluation(store: Store, tmp_path: Path) -> None:
    write_sources(tmp_path / "sources")
    data = make_data(store, tmp_path / "sources")
    model = make_model(store, data["tokens"], tmp_path / "model")
    inputs = {"model": model, "tokens": data["tokens"], "corpus": data["corpus"]}
    made = build(SPEC, inputs, store=store, name="tiny")
    texts = heldout_texts(data["corpus"].local())
    decoder = TokenBytes(AutoTokenizer.from_pretrained(model.local()))
    heldout = TokenStore(data["tokens"].local(), "heldout")
    documents = heldout_documents(heldout, decoder, texts)

    expected = naive_bits(model.local(), documents, heldout.eos_token_id) / sum(map(len, texts))
    assert made.metrics["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    assert made.metrics["perplexity"] == pytest.approx(math.exp(made.metrics["validation_loss"]))
    assert made.metrics["heldout_bytes"] == sum(map(len, texts))
    assert json.loads(made.location.read_bytes("evaluation.json")) == made.metrics

    found = {metric: result.value for (_, metric), result in read(made).results.items()}
    assert found["bits_per_byte"] == pytest.approx(made.metrics["bits_per_byte"])
    assert found["token_perplexity"] == pytest.approx(made.metrics["perplexity"])

    lines = made.location.read_bytes("completions.jsonl").decode().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == list(SPEC.prompts)
    assert problems(made) == []

    again = build(SPEC, inputs, store=Store(tmp_path / "other"), name="tiny")
    assert again.record.files == made.record.files

    # The bytes that were seen: all of the train text for enough steps, and for few steps what the sequences hold.
    train = TokenStore(data["tokens"].local(), "train")
    everything = b"".join(seen_text(train, np.arange(train.num_sequences), decoder))
    whole = decoder.decode(train.tokens(0, train.num_sequences * LENGTH + 1))
    assert everything == whole
    chosen = sorted({Order(train.num_sequences, PRETRAIN.seed).sample(i) for i in range(STEPS * 2)})
    covered = np.zeros(train.num_tokens, dtype=bool)
    for index in chosen:
        covered[index * LENGTH : (index + 1) * LENGTH + 1] = True
    all_tokens = train.tokens(0, train.num_tokens)
    assert made.metrics["seen_bytes"] == len(decoder.decode(all_tokens[covered]))

    with pytest.raises(InputError, match="is not the corpus's"):
        heldout_documents(heldout, decoder, [b"something else", *texts[1:]])


def test_xz_is_xz(tmp_path: Path) -> None:
    texts = [b"import os\n" * 50, "Straße\n".encode() * 80, bytes(range(256))]
    joined = b"".join(texts)
    try:
        packed = subprocess.run(["xz", "-9", "-c"], input=joined, capture_output=True, check=True).stdout
    except FileNotFoundError:
        packed = lzma.compress(joined, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9)
    assert xz_bits_per_byte(texts) == 8 * len(packed) / len(joined)
