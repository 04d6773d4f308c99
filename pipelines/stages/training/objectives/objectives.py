"""The objectives of pretraining by name: each is the `OBJECTIVE` of the module of its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from cluster.core.import_strings import import_string
from pipelines.stages.training.objectives.objective import LanguageModel
from pipelines.stages.training.spec import Infilling, ObjectiveName

OBJECTIVES: dict[str, type[LanguageModel]] = {
    name: import_string(f"{__package__}.{name}:OBJECTIVE") for name in (*get_args(ObjectiveName), *get_args(Infilling))
}


def objective_for(shares: Iterable[str]) -> type[LanguageModel]:
    """The objective of a run; of kinds of blanks, which have one loss, the first."""
    return OBJECTIVES[next(iter(shares))]
