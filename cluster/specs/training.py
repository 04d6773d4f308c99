"""Specs of training runs: what all of them share, and pretraining."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.errors import SpecError
from cluster.spec import Spec

# Whatever holds a causal language model as a Hugging Face folder.
MODELS = "pretrain|pretrained|extended|sft|rlhf|quantized|model"


class TrainingSpec(Spec, frozen=True):
    """What every training run has: the batch, the optimizer, its schedule, and one seed."""

    global_batch_size: Annotated[int, Meta(ge=1)] = 32
    """Sequences of one optimizer step over all workers."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon on the hidden matrices, AdamW on the rest."""
    learning_rate: Annotated[float, Meta(gt=0)] = 5e-4
    """Peak learning rate of AdamW."""
    muon_learning_rate: Annotated[float, Meta(gt=0)] = 0.02
    """Peak learning rate of Muon (used with `optimizer: muon` only)."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Learning rate after warm-up; `wsd` keeps the peak and decays over the last `decay_fraction`."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 100
    """Steps of linear warm-up."""
    decay_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.2
    """Share of the steps over which `wsd` decays to zero."""
    min_learning_rate_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a fraction of the peak."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.1
    """Decoupled weight decay of matrices; none on biases, norms and embeddings."""
    beta1: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    """AdamW's first moment."""
    beta2: Annotated[float, Meta(ge=0, lt=1)] = 0.95
    """AdamW's second moment."""
    max_grad_norm: Annotated[float, Meta(ge=0)] = 1.0
    """Gradient clipping by global norm; 0 switches it off."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers of forward and backward pass; optimizer state is fp32 in both."""
    evaluate_every_steps: Annotated[int, Meta(ge=0)] = 0
    """Steps between validation losses during training; 0 validates at the end only."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of initialization, data order and dropout."""

    def check(self) -> None:
        if self.min_learning_rate_fraction and self.schedule == "constant":
            raise SpecError(f"{self.kind}.min_learning_rate_fraction: a constant schedule has no end", "Leave it at 0.")


class PretrainSpec(TrainingSpec, frozen=True):
    """A causal language model trained on a token store or on a mixture of several: from scratch, or on from `model`."""

    kind: ClassVar[str] = "pretrain"
    stage: ClassVar[str] = "pipelines.training.stage:build"
    sizing: ClassVar[str] = "pipelines.training.sizing:predict"
    inputs: ClassVar[dict[str, str]] = {"tokens": "tokens|mixture", "model": MODELS}
    optional_inputs: ClassVar[tuple[str, ...]] = ("model",)

    model: str | dict[str, Any] = "gpt2-1m"
    """Named size, such as `gpt2-124m` or `llama-1m` (docs/training.md has the table), or the fields of a transformers
    configuration, `model_type` among them; not used where there is an input `model`."""
    model_overrides: dict[str, Any] = {}
    """Fields of the transformers configuration that differ from the named size, such as `num_hidden_layers`."""
    z_loss: Annotated[float, Meta(ge=0)] = 0.0
    """Weight of log(Z)^2, the softmax's normalizer, which it keeps near 1 (PaLM, arXiv:2204.02311, section 5: 1e-4)."""
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of a label's probability that all tokens get alike (Szegedy et al. 2016)."""
    total_tokens: Annotated[int, Meta(ge=1)] = 2_000_000
    """Tokens to train on; epochs follow from the size of the store (of a mixture, from the sizes and the weights)."""
    validation_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences of the held-out split (of each source of a mixture) that the validation loss is taken over."""
    window_shards: Annotated[int, Meta(ge=0)] = 0
    """0: the order shuffles the whole store. N: it shuffles within windows of N shards in their order, in the first
    epoch, so that training starts once N shards are tokenized, and sees the same as if it had waited for all."""

    def reads_early(self) -> Collection[str]:
        return ("tokens",) if self.window_shards else ()

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if "model" in inputs and (self.model != PretrainSpec().model or self.model_overrides):
            raise SpecError(f"{self.kind}.model: the input `model` has a configuration of its own", "Leave it out.")
        if self.window_shards and inputs["tokens"].kind == "mixture":
            raise SpecError(f"{self.kind}.window_shards: the order of a mixture has no windows", "Leave it at 0.")
