"""Specs of preference pairs and of the reward model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from msgspec import Meta

from cluster.core.errors import SpecError, nearest
from cluster.core.specs.naming import File
from cluster.core.specs.spec import Spec
from pipelines.stages.alignment import formats
from pipelines.stages.training.spec import CONVERSATIONS, MODELS, TrainingSpec

Damage = Literal[
    "drop_closing", "lose_line", "shuffle_lines", "swap_names", "break_indentation", "repeat_words", "truncate"
]


class PreferencesSpec(Spec, frozen=True):
    """Answers to one request, of which one is better: pairs, ranked lists, single ones, split as JSON lines."""

    kind: ClassVar[str] = "preferences"
    stage: ClassVar[str] = "pipelines.stages.alignment.preferences:build"
    inputs: ClassVar[dict[str, str]] = {"conversations": CONVERSATIONS}
    optional_inputs: ClassVar[tuple[str, ...]] = ("conversations",)

    source: Literal["corrupted", "file", "feedback"] = "corrupted"
    """`corrupted`: the true answer against a damaged or a foreign one; `file`: `path`; `feedback`: what people said
    of an endpoint's answers, at `path`."""
    path: File = ""
    """Of `file`: a file of JSON lines, a JSON array, CSV or Parquet, compressed or not; a folder
    of such, a glob, or an fsspec URL; of `feedback`: the folder of
    `endpoint.feedback.path`."""
    format: str = formats.AUTO
    """Format of its records (docs/alignment.md has them all); `auto`: each is known by what is in it."""
    license: str = ""
    """Licence of the records that name none (not of `corrupted`); empty: of a file, what the card beside it says
    (README.md), or the package that carries it."""
    pairs_per_conversation: Annotated[int, Meta(ge=1)] = 1
    """Pairs of each conversation of the train split (`corrupted` only)."""
    foreign_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.3
    """Share of the rejected answers that belong to another request; the others are damaged copies."""
    damage: tuple[Damage, ...] = get_args(Damage)
    """Kinds of damage, one of which befalls a copy."""
    heldout_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Share held out (not of `corrupted`, which keeps the conversations' own split)."""
    max_bad_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """The run fails when a larger share of the file's records is not of its format."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the damage, of the choice of foreign answers, and of the split."""

    def check(self) -> None:
        if (self.source == "corrupted") == bool(self.path):
            raise SpecError("preferences.path: goes with `source: file` or `feedback`, and with them only",
                            "Set both, or neither.")  # fmt: skip
        if self.format not in formats.FORMATS:
            known = list(formats.FORMATS)
            raise SpecError(f"preferences.format: no format {self.format!r}", nearest(self.format, known))
        if not self.damage:
            raise SpecError("preferences.damage: no kind is left", f"Name some of {', '.join(get_args(Damage))}.")

    @property
    def later_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("format",) if self.source == "corrupted" else ()  # files are read otherwise than they were

    def unused_inputs(self) -> Collection[str]:
        return () if self.source == "corrupted" else ("conversations",)

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        if self.source != "corrupted" and "conversations" in inputs:
            raise SpecError(
                f"preferences.source: {'a file' if self.source == 'file' else 'feedback'} takes no conversations",
                "Leave out the input `conversations`.",
            )
        if self.source == "corrupted" and "conversations" not in inputs:
            raise SpecError(
                "preferences.source: answers to damage are those of conversations, and none are given",
                "Give the step conversations=..., or set preferences.source=file and preferences.path.",
            )


class RewardSpec(TrainingSpec, frozen=True):
    """A reward model: a scalar head on a fine-tuned model, trained on pairs (Bradley-Terry) and ranked lists
    (Plackett-Luce)."""

    kind: ClassVar[str] = "reward"
    stage: ClassVar[str] = "pipelines.stages.alignment.reward:build"
    sizing: ClassVar[str] = "pipelines.stages.alignment.sizing:predict_reward"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, "preferences": "preferences"}
    later_fields: ClassVar[tuple[str, ...]] = ("margin_scale", "center_coef")

    epochs: Annotated[float, Meta(gt=0)] = 1.0
    """Passes over the train split."""
    sequence_length: Annotated[int, Meta(ge=8)] = 512
    """Longest conversation in tokens (and never beyond the model's context); pairs with a longer one are left out and
    counted."""
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-4
    """Peak learning rate of AdamW."""
    warmup_steps: Annotated[int, Meta(ge=0)] = 10
    """Steps of linear warm-up."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.0
    """Decoupled weight decay of matrices; none on biases, norms and embeddings."""
    validation_pairs: Annotated[int, Meta(ge=1)] = 1000
    """Pairs and lists of the held-out split that the accuracy is taken over; ties are no part of them."""
    margin_scale: Annotated[float, Meta(ge=0)] = 1.0
    """What the margins of pairs are multiplied by, where records have such: the score of the chosen answer is to be so
    much higher (Llama 2, arXiv:2307.09288); 0: margins count for nothing."""
    center_coef: Annotated[float, Meta(ge=0)] = 0.0
    """Weight of the square of the sum of a pair's scores, which keeps their mean near 0 (arXiv:2312.09244: 0.01)."""
