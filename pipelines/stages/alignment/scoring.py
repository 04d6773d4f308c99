"""All rewards of a spec at once: Python functions on the text, the reward model on the conversation."""

from __future__ import annotations

import time
from typing import Any

import torch

from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.reward import RewardModel
from pipelines.stages.alignment.rewards.calls import apply
from pipelines.stages.alignment.rewards.rewards import reward_function
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.spec import REWARD_MODEL
from pipelines.stages.generation.engine import Completion


class Scorer:
    """Scores completions of conversations by every reward function of a spec, all of them within `timeout_seconds`."""

    def __init__(self, spec: RlhfSpec, tokenizer: Any, model: RewardModel | None, timeout_seconds: float) -> None:
        self.functions = {name: reward_function(name) for name in spec.rewards if name != REWARD_MODEL}
        self.tokenizer = tokenizer
        self.model = model
        self.timeout_seconds = timeout_seconds

    def __call__(self, prompts: list[Prompt], completions: list[Completion]) -> dict[str, list[float]]:
        """The unweighted reward of each completion, by function."""
        samples = [
            Sample.of(self.tokenizer, prompt.messages, completion, prompt.reference)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        end = time.monotonic() + self.timeout_seconds
        found = {
            name: apply(name, function, samples, end - time.monotonic()) for name, function in self.functions.items()
        }
        if self.model is not None:
            found[REWARD_MODEL] = torch.tensor(self.model.score_samples(samples)).sigmoid().tolist()
        return found
