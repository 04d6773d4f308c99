"""The learner's weights in the rollout engines: sent in memory before each rollout, and checked. Of an adapter over a
frozen model the adapter alone is sent (adapter_sync.py).

The version of the weights is the number of steps that made them. On request, greedy completions by transformers with
exactly these weights are compared with the engines' after every sync: they must be the same tokens.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cluster.core.errors import JobError
from pipelines.stages.generation.fleet import Fleet
from pipelines.stages.training.engine.engine import Engine

GREEDY_TOKENS = 24


class WeightSync:
    """Called by all ranks; only rank 0 has the fleet. `twin` is a transformers model to verify with, or None; `beside`
    the engine that a worker has started itself, which lives as long as its handle does."""

    def __init__(
        self,
        fleet: Fleet | None,
        dtype: torch.dtype,
        twin: Any,
        prompts: list[list[int]],
        eos_token_id: int,
        greedy_tokens: int = GREEDY_TOKENS,
        beside: Any = None,
    ) -> None:
        self.fleet = fleet
        self.dtype = dtype
        self.twin = twin
        self.prompts = prompts
        self.eos_token_id = eos_token_id
        self.greedy_tokens = greedy_tokens
        self.beside = beside
        self.version = -1
        self.verified = 0
        self._last: dict[str, float] = {}

    def figures(self) -> dict[str, float]:
        """What there is to tell of the last sync: what was sent to each engine, and the seconds of everybody's wait."""
        return self._last | ({"verified_syncs": self.verified} if self.verified else {})

    def __call__(self, version: int, engine: Engine) -> None:
        """Bring the engines to the weights after `version` steps. Raises JobError where they do not agree."""
        if version == self.version:
            return
        began = time.monotonic()
        straight = self.fleet is not None and self.fleet.transport != "object_store"
        weights = engine.weights(keep=self.fleet is not None, on_device=straight)
        self.version = version
        if self.fleet:
            sent = {name: weight.to(self.dtype) for name, weight in weights.items()}
            self.fleet.sync(version, sent)
            size = sum(weight.nbytes for weight in sent.values())
            self._last = {"sync_bytes": size, "sync_seconds": round(time.monotonic() - began, 3)}
        dist.barrier()  # the others wait for one call of the engines at a time, which has a deadline of its own
        if self.fleet and self.twin is not None:
            self._verify(weights)
        dist.barrier()

    def rest(self) -> None:
        """Have engines that share the workers' GPUs give back their memory, before anything is learned."""
        if self.beside is not None:
            if self.fleet:
                self.fleet.rest()
            dist.barrier()

    def _verify(self, weights: dict[str, Tensor]) -> None:
        assert self.fleet
        self.twin.load_state_dict(weights, strict=False)
        completions = self.fleet.generate(
            self.prompts,
            [0] * len(self.prompts),
            max_tokens=self.greedy_tokens,
            temperature=0.0,
            eos_token_id=self.eos_token_id,
        )
        for prompt, completion in zip(self.prompts, completions, strict=True):
            expected = greedy(self.twin, prompt, self.eos_token_id, self.greedy_tokens)
            if completion.tokens != expected:
                raise JobError(
                    f"after the sync of version {self.version} the rollout engine and transformers disagree: "
                    f"{completion.tokens} and {expected}",
                    "The engine does not compute what the learner trains; do not trust its samples.",
                )
        self.verified += 1


@torch.inference_mode()
def greedy(model: Any, prompt: list[int], eos_token_id: int, max_tokens: int = GREEDY_TOKENS) -> list[int]:
    """Greedy token ids by transformers, the end-of-text token included."""
    tokens = torch.tensor([prompt], device=model.device)
    options = {"do_sample": False, "max_new_tokens": max_tokens, "pad_token_id": eos_token_id}
    output = model.generate(tokens, attention_mask=torch.ones_like(tokens), eos_token_id=eos_token_id, **options)
    return [int(token) for token in output[0, len(prompt) :]]
