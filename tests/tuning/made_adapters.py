"""Models tuned by every method without a training run: what the method trains is moved at random, and then written."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import SftSpec
from pipelines.stages.tuning.methods.method import Stored
from pipelines.stages.tuning.recipe import load_with_rows
from pipelines.stages.tuning.templates import prepare
from tests.made import make
from tests.tuning.tiny_sft import sft

Inputs = dict[str, Artifact]


def tuned(inputs: Inputs, store: Store, spec: SftSpec, name: str = "tiny", seed: int = 1) -> tuple[Artifact, Any]:
    """The artifact of fine-tuning by a method, and the model that was trained, as it was then."""
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
    prepare(tokenizer, spec.template)
    extra = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}

    def load(packed: bool = False) -> Any:
        return load_with_rows(inputs["model"].local(), spec, extra, packed)

    base = load(packed=True)
    model = spec.method.apply(base, spec.seed)
    torch.manual_seed(seed)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    with tempfile.TemporaryDirectory() as folder:
        weights = {name: parameter.detach().clone() for name, parameter in trained.items()}
        spec.method.write(
            base, Stored(inputs["model"].local(), load), weights, Path(folder), inputs["model"].record.ref, spec.seed
        )
        tokenizer.save_pretrained(folder)
        files = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    return make(store, spec, inputs, files, name), model.eval()


def by_method(inputs: Inputs, store: Store, method: str, **changes: Any) -> tuple[Artifact, Any]:
    return tuned(inputs, store, sft(method, **changes), method)


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def greedy(model: Any, prompt: torch.Tensor, number: int = 12) -> list[int]:
    """The next tokens, each the likeliest after those before it."""
    ends = {"min_new_tokens": number, "max_new_tokens": number, "do_sample": False, "pad_token_id": 0}
    found = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **ends)
    return found[0, prompt.size(1) :].tolist()
