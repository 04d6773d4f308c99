"""Specs of offline preference optimization: the log-probabilities that it measures from, and the training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import Spec
from pipelines.stages.alignment.offline.losses import AnyPreferenceLoss
from pipelines.stages.alignment.offline.losses.dpo import Dpo
from pipelines.stages.training.spec import MODELS, TrainingSpec
from pipelines.stages.tuning.methods import AnyMethod, Full
from pipelines.stages.tuning.spec import Template

REFERENCE = "reference"
TooLong = Literal["reject", "cut-turns", "cut-end"]


class ReferenceSpec(Spec, frozen=True):
    """Log-probabilities that a model gives to the answers of preferences, for the losses that measure from it.

    `dpo` runs on the same preferences take them, of whatever loss, learning rate or method; `template`,
    `sequence_length` and `too_long` must be theirs.
    """

    kind: ClassVar[str] = REFERENCE
    stage: ClassVar[str] = "pipelines.stages.alignment.offline.reference:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "preferences": "preferences"}

    template: Template = ""
    """Chat template; empty: the model's own."""
    sequence_length: Annotated[int, Meta(ge=8)] = 512
    """Longest conversation in tokens (and never beyond the model's context)."""
    too_long: TooLong = "reject"
    """What becomes of longer ones: as in `dpo`."""
    mismatched: bool = False
    """Also of each request with an answer to another one, which KTO estimates the KL by."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Numbers of the forward pass: best those of the training."""


class DpoSpec(TrainingSpec, frozen=True):
    """A model tuned on preferences without rollouts: by DPO, IPO, KTO, ORPO or SimPO."""

    kind: ClassVar[str] = "dpo"
    stage: ClassVar[str] = "pipelines.stages.alignment.offline.stage:build"
    sizing: ClassVar[str] = "pipelines.stages.tuning.sizing:predict"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "preferences": "preferences", REFERENCE: REFERENCE}
    optional_inputs: ClassVar[tuple[str, ...]] = (REFERENCE,)
    packing: ClassVar[bool] = False  # what methods of tuning ask

    loss: AnyPreferenceLoss = Dpo()
    """`dpo`, `ipo`, `kto` (which takes unpaired answers, too), `orpo` or `simpo`, each with fields of its own."""
    method: AnyMethod = Full()
    """What is trained, as in `sft`: `full`, `freeze`, `lora`, `qlora`, `p-tuning-v2` or `prompt-tuning`."""
    template: Template = ""
    """Chat template, stored with the model; empty keeps the model's own."""
    global_batch_size: Annotated[int, Meta(ge=1)] = 32
    """Pairs of one optimizer step over all workers; of `kto`, answers."""
    epochs: Annotated[float, Meta(gt=0)] = 1.0
    """Passes over the train split."""
    sequence_length: Annotated[int, Meta(ge=8)] = 512
    """Longest conversation in tokens (and never beyond the model's context)."""
    too_long: TooLong = "reject"
    """Pairs with a longer conversation: `reject` leaves them out; `cut-turns` cuts the oldest turns of both, whole, and
    keeps the system message; `cut-end` cuts the ends of answers, whose end of turn is then not learned. What does not
    fit even so is left out. All is counted."""
    learning_rate: Annotated[float, Meta(gt=0)] = 5e-6
    """Peak learning rate of AdamW (published for all weights: 5e-7 to 5e-6; for adapters about ten times as much)."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 10
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """Decoupled weight decay of matrices; none on biases, norms and embeddings."""
    validation_pairs: Annotated[int, Meta(ge=1)] = 1000
    """Pairs of the held-out split that loss, accuracy and margins are taken over; of `kto`, answers."""

    def check(self) -> None:
        super().check()
        try:
            self.method.check(self)
        except SpecError as error:
            raise _ours(error) from None

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.loss.compares_with_start != (REFERENCE in inputs):
            needed = "measures from a reference, and none is given" if self.loss.compares_with_start else "has none"
            raise SpecError(
                f"dpo.loss: {self.loss.name} and the input `reference`: it {needed}",
                "Give the step reference=step(ReferenceSpec(), model=..., preferences=...) for dpo, ipo and kto, and "
                "none for orpo and simpo.",
            )

    def unused_inputs(self) -> Collection[str]:
        return () if self.loss.compares_with_start else (REFERENCE,)

    def check_scaling(self, scaling: ScalingSpec) -> None:
        super().check_scaling(scaling)
        try:
            self.method.check_scaling(scaling)
        except SpecError as error:
            raise _ours(error) from None


def _ours(error: SpecError) -> SpecError:
    """An error of a method of tuning, whose fields are called after `sft`, about our fields."""
    return SpecError(error.message.replace("sft.", "dpo."), error.remedy.replace("sft.", "dpo."))
