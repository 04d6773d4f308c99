"""Specs of training runs: what all of them share, and pretraining."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import ANY, Spec

# What a model may learn to tell: each is a module of its name in objectives/.
ObjectiveName = Literal[
    "causal",
    "masked",
]
Infilling = Literal[  # kinds of blanks, which may be mixed on one model
    "infilling_short",
    "infilling_sentence",
    "infilling_document",
]
# What moves the weights: each is a module of its name in optimizers/.
OptimizerName = Literal[
    "adamw",
    "muon",
    "adafactor",
    "adamw8bit",
]
Weight = Annotated[float, Meta(ge=0)]

# Whatever holds a causal language model as a Hugging Face folder.
MODELS = "pretrain|pretrained|extended|sft|merged|dpo|rlhf|pruned|quantized|model"
WRITERS = f"{MODELS}|adapter"  # whatever writes texts, by itself or over the model that it was trained over
# Whatever holds conversations to learn from, as train.jsonl and heldout.jsonl.
CONVERSATIONS = "conversations|synthetic"
VALIDATION = "validation_"  # begins the names of inputs that are validated on only


class TrainingSpec(Spec, frozen=True):
    """What every training run has: the batch, the optimizer, its schedule, and one seed."""

    trains: ClassVar[bool] = True
    shared: ClassVar[bool] = False  # whether neighbouring workers can share sequences or layers

    global_batch_size: Annotated[int, Meta(ge=1)] = 32
    """Sequences of one optimizer step over all workers."""
    start_batch_size: Annotated[int, Meta(ge=1)] | None = None
    """Sequences of the first step, where the batch grows: a divisor of `global_batch_size`, in multiples of which it
    grows linearly in steps. None: every step has `global_batch_size`."""
    batch_size_warmup_steps: Annotated[int, Meta(ge=0)] = 0
    """Steps until the batch has grown from `start_batch_size` to `global_batch_size`."""
    optimizer: OptimizerName = "adamw"
    """`muon`: Muon on the hidden matrices, AdamW on the rest. `adafactor`: on all weights. `adamw8bit`: AdamW, whose
    state of the hidden matrices has 8 bits a number; its results depend on workers and ZeRO stage a little."""
    learning_rate: Annotated[float, Meta(gt=0)] = 5e-4
    """Peak learning rate of AdamW; of Adafactor, relative to each weight's root mean square (published: 1e-2)."""
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
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Numbers of forward and backward pass; weights and optimizer state are fp32 in all. `fp16` scales the loss, and
    skips the steps whose gradient overflows."""
    evaluate_every_steps: Annotated[int, Meta(ge=0)] = 0
    """Steps between validation losses during training; 0 validates at the end only."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of initialization, data order and dropout."""
    on_divergence: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite, or whose loss spikes: it ends the run, or is left out."""
    spike_threshold: Annotated[float, Meta(ge=0)] = 0.0
    """A loss spikes above the mean of the last steps plus so many standard deviations; 0: no loss does."""
    spike_window: Annotated[int, Meta(ge=2)] = 128
    """Steps that this mean and this deviation are taken over; before there are as many, no loss spikes."""
    max_consecutive_skips: Annotated[int, Meta(ge=1)] = 10
    """Steps left out one after another before the run stops after all."""

    def steps_of_warmup(self, steps: int) -> int:
        """Of a run of `steps`."""
        return self.warmup_steps

    def check(self) -> None:
        if (self.start_batch_size is None) != (self.batch_size_warmup_steps == 0):
            raise SpecError(
                f"{self.kind}.start_batch_size and {self.kind}.batch_size_warmup_steps belong together",
                "Give both, or neither for batches of one size.",
            )
        if self.start_batch_size is not None and self.global_batch_size % self.start_batch_size:
            raise SpecError(
                f"{self.kind}.start_batch_size: {self.start_batch_size} does not divide the "
                f"{self.global_batch_size} sequences of {self.kind}.global_batch_size",
                "The batch grows in multiples of it.",
            )
        if self.min_learning_rate_fraction and self.schedule == "constant":
            raise SpecError(f"{self.kind}.min_learning_rate_fraction: a constant schedule has no end", "Leave it at 0.")

    def check_scaling(self, scaling: ScalingSpec) -> None:
        """The workers, or groups of them, divide the global batch (of a growing one the first), and micro-batches
        their shares."""
        sharing, cutting = scaling.sequence_parallel_size, scaling.tensor_parallel_size
        size = sharing * cutting
        groups = scaling.num_workers // size
        if size > 1 and not self.shared:
            field, what = ("sequence", "sequences") if sharing > 1 else ("tensor", "layers")
            raise SpecError(f"scaling.{field}_parallel_size: {self.kind} does not share {what}", "Set it to 1.")
        start = self.start_batch_size or self.global_batch_size
        if start % groups:
            name = "start_batch_size" if start < self.global_batch_size else "global_batch_size"
            raise SpecError(
                f"{self.kind}.{name}: {start} sequences do not divide among {groups} "
                + ("workers" if size == 1 else f"groups of {size} workers"),
                f"Set scaling.num_workers to {'' if size == 1 else f'{size} times '}a divisor of {start}, "
                "or change the batch (which changes the model).",
            )
        share = start // groups
        micro = scaling.micro_batch_size or share
        if share % micro:
            best = max(divisor for divisor in range(1, min(micro, share) + 1) if share % divisor == 0)
            raise SpecError(
                f"scaling.micro_batch_size: {micro} does not divide the {share} sequences of a worker's step",
                f"Take a divisor of {share}, such as {best}.",
            )


class PretrainSpec(TrainingSpec, frozen=True):
    """A language model trained on a token store or on a mixture of several: from scratch, or on from `model`.

    Further token stores, as inputs `validation_NAME`, are validated on besides: their held-out split.
    """

    kind: ClassVar[str] = "pretrain"
    stage: ClassVar[str] = "pipelines.stages.training.stage:build"
    sizing: ClassVar[str] = "pipelines.stages.training.sizing.training_step:predict"
    shared: ClassVar[bool] = True
    inputs: ClassVar[dict[str, str]] = {"tokens": "tokens|mixture", "model": MODELS, ANY: "tokens"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("model",)
    measured_inputs: ClassVar[tuple[str, ...]] = (ANY,)
    later_fields: ClassVar[tuple[str, ...]] = ("keep_zeros",)

    model: str | dict[str, Any] = "gpt2-1m"
    """Named size, such as `gpt2-124m` or `llama-1m` (docs/training.md has the table), or the fields of a transformers
    configuration, `model_type` among them; not used where there is an input `model`."""
    model_overrides: dict[str, Any] = {}
    """Fields of the transformers configuration that differ from the named size, such as `num_hidden_layers`."""
    objective: ObjectiveName | Infilling | dict[Infilling, Weight] = "causal"
    """What the model learns: `causal`, the next token; `masked`, a share of the tokens (BERT); `infilling_short`,
    `infilling_sentence` and `infilling_document`, blanks token by token (GLM): short ones, whole sentences, the later
    half of a document or more. Of several kinds of blanks give weights: `{infilling_short: 1, infilling_document: 1}`;
    each sample is of one of them."""
    masked_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.15
    """Share of the tokens that `masked`, `infilling_short` and `infilling_sentence` ask for (BERT and GLM: 15 %; more
    may teach more: Wettig et al. 2022, arXiv:2202.08005)."""
    z_loss: Annotated[float, Meta(ge=0)] = 0.0
    """Weight of log(Z)^2, the softmax's normalizer, which it keeps near 1 (PaLM, arXiv:2204.02311, section 5: 1e-4)."""
    label_smoothing: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Share of a label's probability that all tokens get alike (Szegedy et al. 2016)."""
    total_tokens: Annotated[int, Meta(ge=1)] = 2_000_000
    """Tokens to train on; epochs follow from the size of the store (of a mixture, from the sizes and the weights)."""
    validation_sequences: Annotated[int, Meta(ge=1)] = 256
    """Sequences of the held-out split (of each source of a mixture) that the validation loss is taken over."""
    keep_zeros: bool = False
    """The zeros in the matrices of the input `model` stay zeros: what was pruned does not grow back."""
    window_shards: Annotated[int, Meta(ge=0)] = 0
    """0: the order shuffles the whole store. N: it shuffles within windows of N shards in their order, in the first
    epoch, so that training starts once N shards are tokenized, and sees the same as if it had waited for all."""

    @property
    def shares(self) -> dict[str, float]:
        """The objectives by name, in alphabetical order, each with its share of the samples."""
        if isinstance(self.objective, str):
            return {self.objective: 1.0}
        total = sum(self.objective.values())
        return {name: weight / total for name, weight in sorted(self.objective.items()) if weight}

    def check(self) -> None:
        super().check()
        if self.keep_zeros and self.optimizer != "adamw":
            raise SpecError(f"{self.kind}.keep_zeros: {self.optimizer} moves zeros, too", "Set optimizer to adamw.")
        if isinstance(self.objective, dict) and not any(self.objective.values()):
            raise SpecError(f"{self.kind}.objective: no weight above 0", "Give one objective a weight at least.")

    def reads_early(self) -> Collection[str]:
        return ("tokens",) if self.window_shards else ()

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        for name in inputs.keys() - PretrainSpec.inputs.keys():
            if not name.removeprefix(VALIDATION) or not name.startswith(VALIDATION):
                raise SpecError(
                    f"{self.kind}: no input is called {name!r}", f"A set to validate on is {VALIDATION}NAME."
                )
        if "model" in inputs and (self.model != PretrainSpec().model or self.model_overrides):
            raise SpecError(f"{self.kind}.model: the input `model` has a configuration of its own", "Leave it out.")
        if self.window_shards and inputs["tokens"].kind == "mixture":
            raise SpecError(f"{self.kind}.window_shards: the order of a mixture has no windows", "Leave it at 0.")
