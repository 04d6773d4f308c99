"""Models with random weights whose layers are of both kinds, linear and GPT-2's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

SIZES: dict[str, Any] = {
    "llama": LlamaConfig(vocab_size=320, hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=1, intermediate_size=128, tie_word_embeddings=True, initializer_range=0.3),
    "gpt2": GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2,
                       bos_token_id=0, eos_token_id=0),
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(SIZES))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / request.param
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(SIZES[request.param]).save_pretrained(folder)
    return Path(folder)
