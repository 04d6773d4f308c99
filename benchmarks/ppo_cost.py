"""What PPO's critic costs: CPU seconds of a learning step of GRPO and of PPO on the same completions.

A step is all that a learner computes for one: the reference's pass, for PPO the critic's before it learns, and one pass
there and back. What both share besides, the completions and the weights' way to the engines, is not in it. CPU time, so
that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from pipelines.specs import Clipped, ValueFunction
from pipelines.stages.alignment.critic import Critic
from pipelines.stages.alignment.logprobs import token_logprobs
from pipelines.stages.alignment.policy_gradient import PolicyGradient
from pipelines.stages.training.models.models import build_model, configuration

ROWS, PROMPT, LENGTH, VOCABULARY = 8, 64, 256, 4096


def step(objective: PolicyGradient, reference: Any, batch: dict[str, torch.Tensor]) -> float:
    """CPU seconds of one step."""
    began = time.process_time()
    with torch.no_grad():
        batch["reference"] = token_logprobs(reference, batch["tokens"], 1.0)
        if objective.critic is not None:
            batch["values"] = objective({"tokens": batch["tokens"]})
    objective(batch).backward()
    objective.zero_grad()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-15m")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = configuration(options.model, {}, vocab_size=VOCABULARY, sequence_length=LENGTH, eos_token_id=0)
    policy = build_model(config, 0)
    reference = copy.deepcopy(policy).eval()
    learn = (torch.arange(LENGTH - 1) >= PROMPT - 1).expand(ROWS, -1)
    batch = {
        "tokens": torch.randint(1, VOCABULARY, (ROWS, LENGTH)),
        "learn": learn,
        "behaviour": torch.full((ROWS, LENGTH - 1), -8.0),
        "advantages": torch.randn(ROWS, LENGTH - 1),
        "weights": torch.ones(ROWS),
        "returns": torch.rand(ROWS, LENGTH - 1),
    }
    score = torch.nn.Linear(config.hidden_size, 1)
    trunk: Any = copy.deepcopy(policy)
    critics = {
        "GRPO": None,
        "PPO, critic.start: policy": Critic(ValueFunction(), getattr(trunk, trunk.base_model_prefix), score),
        "PPO, critic.start: head": Critic(ValueFunction(start="head"), None, score),
    }
    found: dict[str, float] = {}
    for name, critic in critics.items():
        objective = PolicyGradient(
            policy, "fp32", loss=Clipped(), kl_coef=0.01, kl_penalty="token", temperature=1.0, critic=critic
        )
        found[name] = min(step(objective, reference, dict(batch)) for _ in range(options.steps))
        print(f"{name:<28} {found[name]:6.2f} s   {found[name] / found['GRPO']:.2f} times GRPO's", flush=True)


if __name__ == "__main__":
    main()
