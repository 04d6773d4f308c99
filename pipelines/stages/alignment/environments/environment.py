"""What every environment is: a struct of its fields and one method, what it says to a turn of the model.

An answer then has several turns of the model, and between them what the environment said, as the user: tokens that the
model reads and does not learn (episodes.py). Like a reward, an environment runs in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from cluster.core.specs.naming import snake
from pipelines.stages.alignment.rewards.sample import Sample


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=snake):
    """Base of all environments. In YAML `type` tells them apart."""

    on_failure: ClassVar[str] = "score"  # what it fails on is told the model
    needs_reference: ClassVar[bool] = False
    """Whether it goes by the reference of a prompt, so that each prompt must have one."""

    @property
    def searches(self) -> bool:
        """Whether it looks into the input `corpus`: then `prepare` is given `files["corpus"]`, the index of it."""
        return False

    turns: Annotated[int, Meta(ge=2)] = 4
    """Turns of the model in an answer, at most."""
    turn_tokens: Annotated[int, Meta(ge=1)] = 64
    """Longest turn of the model; `max_completion_tokens` bounds all turns and what is said between them. An answer goes
    on while another whole turn has room."""
    timeout_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """How long it may take over one turn; then its process is started again, and the model is told that it failed."""

    def require(self) -> None:
        """Raise NotReadyError or SpecError for what it needs and this machine has not; before a run starts."""

    def check_reference(self, reference: str) -> None:
        """Raise ValueError, which says why, for a reference that it cannot go by. Called before a run starts."""

    def prepare(self, files: Mapping[str, Path]) -> None:
        """Load what it needs, once in each process that it runs in; takes no time of a turn's."""

    def reply(self, sample: Sample) -> str | None:
        """What it says to the model's last turn, `sample.answer`, which came to its end; None: that was the answer.

        `sample.messages` are all before it. Deterministic, or of the global random state, which is seeded by the
        sample. Whatever it raises is told the model, as what it failed on.
        """
        raise NotImplementedError
