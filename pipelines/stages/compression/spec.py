"""Specs of compression."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.spec import ANY, Spec
from pipelines.stages.compression.balancing import AnyBalancing
from pipelines.stages.compression.pruning import AnyPruning, Magnitude
from pipelines.stages.compression.rounding import AnyRounding, Nearest
from pipelines.stages.training.spec import CONVERSATIONS, MODELS

CALIBRATION = "calibration"


class QuantizeSpec(Spec, frozen=True):
    """A model with weights of few bits, in the compressed-tensors format that vLLM serves on CPUs and GPUs, or in
    bitsandbytes' NF4, which transformers serves."""

    kind: ClassVar[str] = "quantized"
    stage: ClassVar[str] = "pipelines.stages.compression.stage:build"
    revision: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {
        "model": MODELS,
        "conversations": CONVERSATIONS,
        CALIBRATION: f"corpus|{CONVERSATIONS}",
    }
    optional_inputs: ClassVar[tuple[str, ...]] = ("conversations", CALIBRATION)
    measured_inputs: ClassVar[tuple[str, ...]] = ("conversations",)
    later_fields: ClassVar[tuple[str, ...]] = (
        "zero_points",
        "rounding",
        "balancing",
        "keep",
        "eight_bits",
        "embeddings",
        "calibration_sequences",
        "calibration_tokens",
        "seed",
        "spare_above",
    )

    scheme: Literal["int8", "int4", "nf4"] = "int8"
    """`int8`: weights per channel, activations per token; `int4`: weights in groups, activations as they are; `nf4`:
    4-bit NormalFloat in blocks of 64 (bitsandbytes), which needs no other field here."""
    group_size: Literal[32, 64, 128] = 32
    """Weights that share a scale (`int4` only); it must divide the width of every layer."""
    zero_points: bool = False
    """A zero point for each group, too (`int4` only): half a bit at groups of 8, an eighth at 32, more exact."""
    rounding: AnyRounding = Nearest()
    """How the weights become integers: `nearest`; `gptq`, which wants the input `calibration`."""
    balancing: AnyBalancing | None = None
    """What is done to the weights before: `awq`, `smooth_quant`; both want the input `calibration`."""
    keep: tuple[str, ...] = ()
    """Linear layers that stay in bfloat16, by the ends of their names, such as `layers.0.mlp.down_proj`."""
    spare_above: Annotated[float, Meta(ge=0)] = 0.0
    """Of a calibrated `int8`: layers stay in bfloat16 whose largest input, once balanced, is so many times the root
    mean square of all, as outliers cost the other inputs of their token its bits; 0: none stays for that."""
    eight_bits: tuple[str, ...] = ()
    """Linear layers of an `int4` that are of `int8`, by the ends of their names: the most sensitive ones, such as
    `mlp.down_proj`."""
    embeddings: Literal["bfloat16", "int8"] = "bfloat16"
    """`int8`: a scale for each row of the embedding, and so of an output layer that is tied to it. A fifth of a small
    model is its embedding; transformers takes a tied one as it is, vLLM through Trunkline only."""
    calibration_sequences: Annotated[int, Meta(ge=1)] = 128
    """Sequences of the calibration, drawn from the training part of its texts (GPTQ, section 4: 128)."""
    calibration_tokens: Annotated[int, Meta(ge=1)] = 512
    """Tokens of each."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the choice of these sequences."""
    report_conversations: Annotated[int, Meta(ge=1)] = 64
    """Held-out conversations that the quality report is made on."""
    report_tokens: Annotated[int, Meta(ge=1)] = 32
    """Greedy tokens per conversation that are compared with the original's."""

    @property
    def calibrated(self) -> bool:
        """Whether texts are needed."""
        return self.rounding.calibrated or self.balancing is not None

    def check(self) -> None:
        if self.zero_points and self.scheme != "int4":
            raise SpecError(f"quantized.zero_points: {self.scheme} has none", "Leave it at false.")
        if self.spare_above and not (self.scheme == "int8" and self.calibrated):
            raise SpecError(
                "quantized.spare_above: outliers are known of a calibrated int8 alone",
                "Set `rounding: {type: gptq}` or `balancing: {type: smooth_quant}`, or leave it out.",
            )
        if self.eight_bits and self.scheme != "int4":
            raise SpecError(f"quantized.eight_bits: those of {self.scheme} cannot be told apart", "Leave it out.")
        others = (self.calibrated, self.keep, self.embeddings != "bfloat16")
        if self.scheme == "nf4" and any(others):
            raise SpecError(
                "quantized.scheme: bitsandbytes rounds to nf4 by itself",
                "Leave `rounding`, `balancing`, `keep` and `embeddings` as they are.",
            )

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.calibrated and CALIBRATION not in inputs:
            wants = "rounding" if self.rounding.calibrated else "balancing"
            raise SpecError(
                f"quantized.{wants}: it wants texts to calibrate on, and there is no input `{CALIBRATION}`",
                "Give a corpus: --set quantized.inputs.calibration=corpus/mine.",
            )

    def unused_inputs(self) -> Collection[str]:
        return () if self.calibrated else (CALIBRATION,)


class PruneSpec(Spec, frozen=True):
    """A model with fewer weights, or with many that are zero. Training it further makes up for what that costs."""

    kind: ClassVar[str] = "pruned"
    stage: ClassVar[str] = "pipelines.stages.compression.prune_stage:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, CALIBRATION: f"corpus|{CONVERSATIONS}"}
    optional_inputs: ClassVar[tuple[str, ...]] = (CALIBRATION,)

    method: AnyPruning = Magnitude()
    """What goes: `magnitude` and `wanda` make single weights zero, `neurons` takes whole neurons of the MLPs out. The
    last two want the input `calibration`."""
    calibration_sequences: Annotated[int, Meta(ge=1)] = 128
    """Sequences of the calibration, drawn from the training part of its texts (Wanda, section 4: 128)."""
    calibration_tokens: Annotated[int, Meta(ge=1)] = 512
    """Tokens of each."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the choice of these sequences."""

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.method.calibrated and CALIBRATION not in inputs:
            raise SpecError(
                f"pruned.method: it wants texts to calibrate on, and there is no input `{CALIBRATION}`",
                "Give a corpus: --set pruned.inputs.calibration=corpus/mine.",
            )

    def unused_inputs(self) -> Collection[str]:
        return () if self.method.calibrated else (CALIBRATION,)


class QualitySpec(Spec, frozen=True):
    """What compressed models save and cost beside their original: memory for inference and for tuning, perplexity,
    agreement, size, speed. Further inputs are models, or benchmarks of them and of the original, under any names."""

    kind: ClassVar[str] = "quality"
    stage: ClassVar[str] = "pipelines.stages.compression.quality_stage:build"
    revision: ClassVar[int] = 2
    inputs: ClassVar[dict[str, str]] = {
        "original": MODELS,
        "conversations": CONVERSATIONS,
        ANY: f"{MODELS}|benchmark",
    }

    report_conversations: Annotated[int, Meta(ge=1)] = 64
    """Held-out conversations that each model is asked: perplexity of their answers, and greedy answers of its own."""
    report_tokens: Annotated[int, Meta(ge=1)] = 32
    """Greedy tokens per conversation that are compared with the original's."""
    tuning_tokens: Annotated[int, Meta(ge=0)] = 256
    """Length of the sequence that tuning is measured with; 0 measures none."""
