"""Every token is scored once, in whatever windows and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from pipelines.stages.evaluation import loss
from pipelines.stages.evaluation.loss import total_nll, windows

EOS, VOCAB, CONTEXT = 0, 50, 16


@given(length=st.integers(0, 100), context=st.integers(1, 20), stride=st.integers(1, 20))
def test_windows_score_each_token_once_with_enough_context(length: int, context: int, stride: int) -> None:
    stride = min(stride, context)
    document = np.arange(1, length + 1)
    sequence = np.r_[EOS, document]
    scored: list[int] = []
    for window in windows(document, EOS, context, stride):
        assert len(window.tokens) - 1 <= context
        begin = 0 if window.tokens[0] == EOS else int(window.tokens[0])
        assert (window.tokens == sequence[begin : begin + len(window.tokens)]).all()
        assert begin == 0 or window.skip >= context - stride
        scored += window.tokens[window.skip + 1 :].tolist()
    assert scored == document.tolist()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@torch.inference_mode()
def naive_nll(model: LlamaForCausalLM, document: np.ndarray, stride: int) -> float:
    """One forward pass for each token, with the context that its window gives it."""
    nats = 0.0
    for window in windows(document, EOS, CONTEXT, stride):
        for label in range(window.skip + 1, len(window.tokens)):
            logits = model(torch.from_numpy(window.tokens[None, :label])).logits[0, -1]
            nats -= float(torch.log_softmax(logits.double(), -1)[int(window.tokens[label])])
    return nats


@pytest.mark.heavy
@settings(max_examples=5)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5), stride=st.integers(1, CONTEXT))
def test_equals_one_document_and_token_at_a_time(model: LlamaForCausalLM, lengths: list[int], stride: int) -> None:
    rng = np.random.default_rng(len(lengths))
    documents = [rng.integers(1, VOCAB, length) for length in lengths]
    nats, tokens = total_nll(model, documents, EOS, CONTEXT, stride)
    assert tokens == sum(lengths)
    assert nats == pytest.approx(sum(naive_nll(model, document, stride) for document in documents), rel=1e-5, abs=1e-6)


def test_batching_does_not_matter(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [np.arange(length) % VOCAB for length in (3, 40, 17, 5, 64)]
    together = total_nll(model, documents, EOS, CONTEXT, 8)
    monkeypatch.setattr(loss, "BATCH_LOGITS", VOCAB)
    assert total_nll(model, documents, EOS, CONTEXT, 8) == pytest.approx(together, rel=1e-6)
