"""The recipe of SFT: what a method trains of a model, and what is learned of a conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.specs import SftSpec
from pipelines.stages.training.models.models import load_model
from pipelines.stages.training.objectives.cross_entropy import cross_entropy
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.worker import Parts, Work
from pipelines.stages.tuning.neftune import add_noise
from pipelines.stages.tuning.sequences import ConversationBatches, Sequences


class AnswerLM(Objective):
    """Next-token prediction of marked tokens: tokens (batch, length + 1), learn (batch, length); losses in nats."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        inputs, labels = batch["tokens"][:, :-1], self.chunk.of(batch["tokens"][:, 1:])
        learn = self.chunk.of(batch["learn"])
        with self.autocast(inputs):
            logits = self.model(inputs, use_cache=False).logits
        logits = logits[:, -labels.size(1) :]  # without those of virtual tokens, which stand before the text
        return cross_entropy(logits[learn], labels[learn])[0]


def sft(work: Work, rank: int) -> Parts:
    """A model folder, fine-tuned on conversations."""
    spec, state = work.spec, work.state
    assert isinstance(spec, SftSpec)
    train, heldout = (Sequences.load(state, f"{split}.npz") for split in ("train", "heldout"))
    folder = work.inputs["model"].local()
    model = load_with_rows(folder, spec, work.extra)
    parameters = model.num_parameters()
    trained = spec.method.apply(model, spec.seed)
    objective = AnswerLM(trained, spec.precision)
    if spec.neftune_alpha:
        add_noise(objective, spec.neftune_alpha, spec.seed)

    def write(weights: dict[str, Tensor], into: Path) -> None:
        def reload() -> Any:  # as it is stored: updates go onto the weights themselves, not onto their packed copy
            return load_with_rows(folder, spec, work.extra, packed=False)

        spec.method.write(model, reload, weights, into, work.inputs["model"].record.ref, spec.seed)

    return Parts(
        objective=objective,
        source=ConversationBatches(train, heldout, work.plan, spec, spec.validation_sequences, rank),
        sequence_length=int(train.lengths.mean()),
        write=write,
        figures=lambda: {
            "parameters": parameters,
            "trained_parameters": sum(
                getattr(p, "ds_numel", p.numel()) for p in trained.parameters() if p.requires_grad
            ),
            "conversations": len(train),
            "too_long": work.extra["left_out"],
            "epochs": round(work.plan.num_positions / len(train), 4),
        },
        rate=spec.method.rate,
    )


def load_with_rows(folder: Path, spec: SftSpec, extra: dict[str, Any], packed: bool = True) -> Any:
    """The model in fp32, its linear layers `packed` as the method has it, with rows for the tokens that the template
    added."""
    model = load_model(folder, **spec.method.load_options(spec.precision) if packed else {})
    torch.manual_seed(spec.seed)  # new rows are drawn around the mean of the old
    if extra["vocab_size"] > model.config.vocab_size:
        model.resize_token_embeddings(extra["vocab_size"])
    for config in (model.config, model.generation_config):
        config.eos_token_id = extra["eos_token_id"]
    return model
