"""Spec of tasks that a program makes, for reinforcement learning."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta, field

from cluster.core.errors import SpecError
from cluster.core.specs.spec import Spec


class TasksSpec(Spec, frozen=True):
    """Tasks as prompts whose answers a program checks: of reasoning-gym (arXiv:2505.24760) by the reward
    `reasoning_gym`, of environments of verifiers by the reward `verifiers`."""

    kind: ClassVar[str] = "tasks"
    stage: ClassVar[str] = "pipelines.stages.alignment.tasks.stage:build"
    later_fields: ClassVar[tuple[str, ...]] = ("source",)

    source: Literal["reasoning_gym", "verifiers"] = "reasoning_gym"
    """The package that makes them, which must be installed."""
    tasks: dict[str, Annotated[int, Meta(ge=2)]] = field(default_factory=lambda: {"chain_sum": 1000})
    """Names of reasoning-gym's data sets, and how many tasks of each; or of installed environments, and how many of
    their examples at most."""
    options: dict[str, dict[str, Any]] = {}
    """Fields of a data set's configuration by its name, such as `{chain_sum: {max_terms: 3}}`; of an environment the
    arguments of its `load_environment`."""
    instruction: str = "Give the final answer between <answer> and </answer>."
    """What stands behind each question of reasoning-gym, on a line of its own; empty: nothing. An environment's prompts
    are as it has them."""
    heldout_fraction: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    """Share of each data set that is held out, one task at least."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the tasks."""

    def check(self) -> None:
        if not self.tasks:
            raise SpecError("tasks.tasks: names no data set", "Give some, such as {chain_sum: 1000}.")
        if strange := self.options.keys() - self.tasks.keys():
            raise SpecError(f"tasks.options: {', '.join(sorted(strange))} is not among tasks.tasks", "Name it there.")
