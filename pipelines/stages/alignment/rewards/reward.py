"""What every reward is: a struct of its fields and one method, what a sampled answer is worth.

A reward runs in a process of its own (pool.py), which may hang, die or change whatever is global without harm to the
run: what then becomes of the sample is the spec's to say.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.naming import snake
from pipelines.stages.alignment.rewards.sample import Sample

SUFFIX = "Reward"


def tag(name: str) -> str:
    """`RepetitionReward` as `repetition`."""
    return snake(name.removesuffix(SUFFIX))


class Reward(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=tag):
    """Base of all rewards. In YAML `type` tells them apart."""

    needs_reference: ClassVar[bool] = False
    """Whether it compares with the answer that a prompt's record gives, so that each prompt must have one."""
    by_step: ClassVar[bool] = False
    """Whether `of` returns where each step of the answer ends, in characters, and what it is worth."""

    weight: float = 1.0
    """Its weight in the sum."""
    timeout_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """How long it may take over one sample; then it has failed there, and its process is started again."""
    on_failure: Literal["fail", "skip", "score"] = "fail"
    """Where it raises, hangs, dies or returns no finite number: `fail` ends the run, `skip` leaves the sample out (its
    advantage is 0, and its group is compared without it), `score` gives it `failure_score`."""
    failure_score: float = 0.0
    """What a sample is worth that it failed on (`score` only)."""

    @property
    def watches(self) -> bool:
        """Whether it is asked about held-out answers alone: it is not learned from, and each answer has its price."""
        return False

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    def check(self, where: str) -> None:
        """Raise SpecError where fields contradict each other; `where` names the reward's field."""
        if self.failure_score and self.on_failure != "score":
            raise SpecError(f"{where}.failure_score: goes with `on_failure: score`", "Set both, or neither.")

    def require(self) -> None:
        """Raise NotReadyError or SpecError for what it needs and this machine has not; before a run starts."""

    def prepare(self) -> None:
        """Load what it needs, once in each process that it runs in; takes no time of a sample's."""

    def check_reference(self, reference: str) -> None:
        """Raise ValueError, which says why, for a reference that it cannot compare with. Called before a run starts."""

    def of(self, sample: Sample) -> Any:
        """The reward of a sample, any finite number; deterministic, or of Python's, numpy's or torch's global random
        state, which is seeded by the sample. Whatever it raises is told, with its name and the sample."""
        raise NotImplementedError
