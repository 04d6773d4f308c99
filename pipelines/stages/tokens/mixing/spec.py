"""Specs of mixtures: several token stores as one, none of them rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cluster.core.errors import SpecError, nearest
from cluster.core.specs.spec import ANY, Spec

Weights = dict[str, Annotated[float, Meta(ge=0)]]


class MixturePhase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An early part of a run with weights of its own. It ends where one of `until_tokens` and `until_fraction` says."""

    weights: Weights
    """Weights by source; a source that is not named is left out of the phase."""
    until_tokens: Annotated[int, Meta(ge=0)] = 0
    """Tokens of the run, counted from its beginning, at which the phase ends."""
    until_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Fraction of the run, counted from its beginning, at which the phase ends."""


class MixtureSpec(Spec, frozen=True):
    """Token stores, trained on in given proportions, which are not copied.

    `step(MixtureSpec(weights={"web": 0.7, "code": 0.3}), web=tokens_a, code=tokens_b)`
    """

    kind: ClassVar[str] = "mixture"
    stage: ClassVar[str] = "pipelines.stages.tokens.mixing.mixture_stage:build"
    inputs: ClassVar[dict[str, str]] = {ANY: "tokens"}

    weights: Weights = {}
    """Weights by source, in sequences (they need not add up to 1); empty: every source by its size, as one store."""
    phases: tuple[MixturePhase, ...] = ()
    """A curriculum: what comes before `weights`, which hold from the end of the last phase to the end of the run."""
    max_epochs: Annotated[float, Meta(gt=0)] = 4.0
    """A run that would see a source more often is refused (repeats are worth less from 4: Muennighoff et al. 2023)."""
    max_epochs_of: dict[str, Annotated[float, Meta(gt=0)]] = {}
    """Sources that may be seen more or less often than `max_epochs`."""

    def check(self) -> None:
        for number, phase in enumerate(self.phases):
            if bool(phase.until_tokens) == bool(phase.until_fraction):
                raise SpecError(f"mixture.phases[{number}]: give either until_tokens or until_fraction")
        for unit in ("until_tokens", "until_fraction"):
            ends = [getattr(phase, unit) for phase in self.phases]
            if any(ends) and not all(before < after for before, after in pairwise([0, *ends])):
                raise SpecError(f"mixture.phases: {unit} must grow from phase to phase, and no other unit be used")
        for where, weights in self._all_weights():
            if not any(weights.values()) and (weights or where != "weights"):
                raise SpecError(f"mixture.{where}: all weights are zero", "Give one source a weight.")

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Every source has a weight somewhere, every weight a source, and a name that a metric can be called after."""
        names = list(inputs)
        for name in names:
            if not (name.isidentifier() and name.isascii()):
                raise SpecError(f"mixture: a source cannot be called {name!r}", "Use letters, digits and _.")
        named = [*self._all_weights(), ("max_epochs_of", self.max_epochs_of)]
        for where, given in named:
            for name in given:
                if name not in names:
                    raise SpecError(f"mixture.{where}: no source is called {name!r}", nearest(name, names))
        if self.weights:
            for name in names:
                if not any(name in weights for _, weights in self._all_weights()):
                    raise SpecError(f"mixture.weights: {name!r} has none", f"Set mixture.weights.{name}.")

    def _all_weights(self) -> list[tuple[str, Weights]]:
        return [*((f"phases[{n}]", phase.weights) for n, phase in enumerate(self.phases)), ("weights", self.weights)]
