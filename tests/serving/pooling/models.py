"""Models that pool, without their training: a reward model of the line, encoders, classifiers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainedSpec, RewardSpec
from pipelines.stages.alignment.reward import PADDING, untrained
from pipelines.stages.tuning.templates import prepare
from tests.export import lines
from tests.tuning.tokenizers import by_hand

POSITIONS = 64


def prepared() -> Any:
    tokenizer = by_hand()
    prepare(tokenizer, "chatml")
    tokenizer.add_special_tokens({"pad_token": PADDING})
    return tokenizer


def reward(store: Store, hidden_size: int = 16) -> Artifact:
    """What the reward stage leaves, its head untrained: a Llama with a row for the padding and a chat template. (vLLM's
    attention on CPUs has no heads of 8.)"""
    tokenizer = prepared()
    with tempfile.TemporaryDirectory() as place:
        torch.manual_seed(0)
        sizes = {**lines.SIZES, "hidden_size": hidden_size}
        rows = len(prepared())
        LlamaForCausalLM(LlamaConfig(vocab_size=rows - 1, intermediate_size=32, **sizes)).save_pretrained(place)
        torch.manual_seed(1)
        model = untrained(Path(place), tokenizer.pad_token_id, len(tokenizer))
        torch.nn.init.normal_(model.score.weight)  # so that scores differ clearly
    return lines.commit(store, RewardSpec(), lines.saved(model, tokenizer))


def _bert(made: Any, **more: Any) -> Any:
    torch.manual_seed(2)
    config = BertConfig(vocab_size=len(by_hand()), intermediate_size=32, initializer_range=0.3, **lines.SIZES, **more)
    return made(config)


def _committed(store: Store, seed: str, model: Any, **files: str) -> Artifact:
    more = {name.replace("__", "/").replace("_json", ".json"): text.encode() for name, text in files.items()}
    return lines.commit(store, PretrainedSpec(license=seed), lines.saved(model, by_hand()) | more)


def encoder(store: Store) -> Artifact:
    """A BERT without a head, whose vectors are the mean of all tokens."""
    return _committed(store, "mean", _bert(BertModel))


def sentence_encoder(store: Store) -> Artifact:
    """One with sentence-transformers' files, by which its first token counts."""
    modules = '[{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]'
    pooling = '{"word_embedding_dimension": 16, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    return _committed(store, "cls", _bert(BertModel), modules_json=modules, **{"1_Pooling__config_json": pooling})


def cross_encoder(store: Store) -> Artifact:
    """A BERT that scores a pair of texts, without any chat template."""
    return _committed(store, "cross", _bert(BertForSequenceClassification, num_labels=1))


def classifier(store: Store) -> Artifact:
    """A Llama with three labels."""
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=len(by_hand()), intermediate_size=32, num_labels=3, pad_token_id=0, **lines.SIZES)
    return _committed(store, "labels", LlamaForSequenceClassification(config))


def writer(store: Store) -> Artifact:
    return lines.commit(store, PretrainedSpec(), lines.chatml_folder())
