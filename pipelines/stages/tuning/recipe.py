"""The recipe of SFT: what a method trains of a model, and what is learned of a conversation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.specs import DpoSpec, SftSpec
from pipelines.stages.training.models.models import load_model
from pipelines.stages.training.objectives.cross_entropy import cross_entropy
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.objectives.output_layer import OutputLayer
from pipelines.stages.training.spec import VALIDATION
from pipelines.stages.training.worker import Parts, Work
from pipelines.stages.tuning.attention import apart, keep_apart
from pipelines.stages.tuning.methods.method import Stored
from pipelines.stages.tuning.neftune import add_noise
from pipelines.stages.tuning.sequences import ConversationBatches, Sequences


class AnswerLM(Objective):
    """Next-token prediction of marked tokens: tokens (batch, length + 1), learn (batch, length); losses in nats.

    Packed rows say besides where their conversations start: starts (batch, length). The model's output layer, with a
    large vocabulary the costliest one, is asked for the marked tokens alone.
    """

    def __init__(self, model: Any, precision: str) -> None:
        super().__init__(model, precision)
        self.output_layer = OutputLayer.of(model)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        inputs, labels = batch["tokens"][:, :-1], self.sequence_part.of(batch["tokens"][:, 1:])
        learn = self.sequence_part.of(batch["learn"])
        own = apart(self.model, self.sequence_part.lengthened(batch["starts"], True)) if "starts" in batch else {}
        with self.autocast(inputs), self.output_layer.asked(learn):
            logits = self.model(inputs, **own, use_cache=False).logits
        return cross_entropy(logits, labels[learn])[0]


def sft(work: Work, rank: int) -> Parts:
    """A model folder, fine-tuned on conversations."""
    spec, state = work.spec, work.state
    assert isinstance(spec, SftSpec)
    train, heldout = (Sequences.load(state, f"{split}.npz") for split in ("train", "heldout"))
    names = sorted(name for name in work.inputs if name.startswith(VALIDATION))
    others = {name.removeprefix(VALIDATION): Sequences.load(state, f"{name}.npz") for name in names}
    model = load_with_rows(work.inputs["model"].local(), spec, work.extra)
    parameters = model.num_parameters()
    if spec.packing:
        keep_apart(model, work.scaling)
    trained = spec.method.apply(model, spec.seed)
    objective = AnswerLM(trained, spec.precision)
    if spec.neftune_alpha:
        add_noise(objective, spec.neftune_alpha, spec.seed)

    return Parts(
        objective=objective,
        source=ConversationBatches(train, {"": heldout} | others, work.plan, spec, rank),
        sequence_length=int(train.conversation_lengths.mean()),
        write=writer(model, spec, work),
        figures=lambda: (
            work.extra["told"]
            | {
                "parameters": parameters,
                "trained_parameters": trained_parameters(trained),
                "epochs": round(work.plan.num_positions / len(train), 4),
            }
        ),
        rate=spec.method.rate,
    )


def writer(model: Any, spec: SftSpec | DpoSpec, work: Work) -> Callable[[dict[str, Tensor], Path], None]:
    """What writes the artifact of a method, which was applied to `model`, of its trained weights."""

    folder = work.inputs["model"].local()

    def write(weights: dict[str, Tensor], into: Path) -> None:
        # Updates go onto the weights themselves, not onto their packed copy.
        stored = Stored(folder, lambda: load_with_rows(folder, spec, work.extra, packed=False))
        spec.method.write(model, stored, weights, into, work.inputs["model"].record.ref, spec.seed)

    return write


def trained_parameters(model: torch.nn.Module) -> int:
    """Number of weights that are trained; right under ZeRO 3 too, where a rank holds only its part."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def load_with_rows(folder: Path, spec: SftSpec | DpoSpec, extra: dict[str, Any], packed: bool = True) -> Any:
    """The model in fp32, its linear layers `packed` as the method has it, with rows for the tokens that the template
    added."""
    options = spec.method.load_options(spec.precision) if packed else {}
    model = load_model(folder, **options)
    if options:
        _let_go(model)
    torch.manual_seed(spec.seed)  # new rows are drawn around the mean of the old
    if extra["vocab_size"] > model.config.vocab_size:
        model.resize_token_embeddings(extra["vocab_size"])
    for config in (model.config, model.generation_config):
        config.eos_token_id = extra["eos_token_id"]
    return model


def _let_go(model: Any) -> None:
    """Copy what was not packed out of the model's file: one weight that lies in it keeps all of it in memory."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.is_floating_point():
            tensor.data = tensor.data.clone()
