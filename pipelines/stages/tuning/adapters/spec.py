"""Specs of adapters: one alone, and a model with some merged into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError, nearest
from cluster.core.specs.spec import ANY, Spec
from pipelines.stages.training.spec import MODELS


class AdapterSpec(Spec, frozen=True):
    """What fine-tuning trained beside a model's own weights, alone: an adapter for peft and vLLM, with its base's name,
    fingerprint and digest, its tokenizer and its card."""

    kind: ClassVar[str] = "adapter"
    stage: ClassVar[str] = "pipelines.stages.tuning.adapters.alone:build"
    inputs: ClassVar[dict[str, str]] = {"model": "sft|dpo|rlhf"}


class MergedSpec(Spec, frozen=True):
    """A model with one adapter merged into it, or several as one (low-rank updates only).

    `step(MergedSpec(combination="ties", weights={"law": 0.5}), model=base, law=adapter_a, medicine=adapter_b)`
    """

    kind: ClassVar[str] = "merged"
    stage: ClassVar[str] = "pipelines.stages.tuning.adapters.merging:build"
    inputs: ClassVar[dict[str, str]] = {"model": MODELS, ANY: "adapter|sft|dpo|rlhf"}

    combination: Literal["cat", "linear", "ties", "dare_linear", "dare_ties"] = "cat"
    """How several adapters become one. `cat`: the exact sum of the updates, of the sum of the ranks. The others are of
    the adapters' own rank, and combine the two factors each by itself, which the sum of updates only resembles:
    `linear`, the factors' sums; `ties`, without small and contradicting numbers (Yadav et al. 2023, arXiv:2306.01708);
    `dare_linear` and `dare_ties`, with random ones left out and the rest scaled (Yu et al. 2023, arXiv:2311.03099)."""
    weights: dict[str, float] = {}
    """Factors on the updates, by the name of their input; 1 where none is given."""
    density: Annotated[float, Meta(gt=0, le=1)] = 0.5
    """Share of the numbers that `ties` and `dare_...` keep."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of what `dare_...` leaves out."""

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        names = [name for name in inputs if name != "model"]
        if not names:
            raise SpecError("merged: no adapter is given", "Give the step one: `law=adapter`.")
        for name in names:
            if not (name.isidentifier() and name.isascii()):
                raise SpecError(f"merged: an adapter cannot be called {name!r}", "Use letters, digits and _.")
        for name in self.weights:
            if name not in names:
                raise SpecError(f"merged.weights: no adapter is called {name!r}", nearest(name, names))
