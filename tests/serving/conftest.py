"""One endpoint for all tests here: a small model on a cluster of `ctl up`, served by `ctl serve up`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec
from tests.cluster.local_cluster import LocalCluster, free_port
from tests.evaluation.tiny_run import commit_model
from tests.serving.page.browser import Browser, chromium

END = "<|endoftext|>"
CONTEXT = 256
TEXT = [
    "def function(value):\n    return value + 1\n",
    "import os\n\n\nfor name in os.listdir():\n    print(name)\n",
] * 20


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        found.size(1280, 800)
        yield found


def write_model(folder: Path, context_tokens: int = CONTEXT) -> None:
    """A Hugging Face folder: a byte-level BPE, and random weights with a spread that makes the choices clear."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False),
    )
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END, pad_token=END).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=bpe.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=context_tokens,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@dataclass
class Served:
    """The running endpoint, and the means to ask about it."""

    cluster: LocalCluster
    base_url: str
    model: Artifact
    port: int
    feedback: str


@pytest.fixture(scope="package")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return commit_model(Store(tmp_path_factory.mktemp("store")), folder, PretrainSpec(), {})


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory, model: Artifact) -> Iterator[Served]:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    port = free_port()
    try:
        cluster.up(num_cpus=4)  # a replica, one beside it, and a job that trains
        store = ("--store", model.store_url)
        feedback = str(cluster.home / "said")
        asked = str(cluster.home / "asked")
        kept = ("--set", f"endpoint.feedback.path={feedback}", "--set", f"endpoint.batches.path={asked}")
        said = cluster.ctl("serve", "up", "tiny", "--port", str(port), "--name", "chat", *kept, *store, timeout=840)
        assert "is ready" in said
        (listed,) = json.loads(cluster.ctl("serve", "list", "--json"))
        yield Served(cluster, listed["base_url"], model, port, feedback)
    finally:
        cluster.ctl("down")
