"""An engine over transformers, for what vLLM cannot open: asked as a `GenerationEngine`, a sequence at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from pipelines.stages.generation import plain
from pipelines.stages.generation.engine import Completion, EngineOptions, folder_of, resident_bytes


class PlainEngine:
    """A model artifact, or a place where one is being made."""

    def __init__(self, model: Artifact | Location, options: EngineOptions) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(options.threads)
        with folder_of(model) as folder:
            self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=options.dtype).eval()

    def pid(self) -> int:
        """The engine's process, and a sign of life."""
        return os.getpid()

    def generate(
        self, version: int, prompts: list[list[int]], *, max_tokens: int, eos_token_id: int | None
    ) -> list[Completion]:
        """The greedy completion of each prompt (token ids)."""
        seeds = [0] * len(prompts)
        return plain.answer(self.model, prompts, seeds, max_tokens, lambda *_: None, eos_token_id=eos_token_id)

    @torch.inference_mode()
    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (nats) of every token but the first of each sequence, given those before it."""
        found: list[list[float]] = []
        for sequence in sequences:
            ids: Any = torch.tensor([sequence], device=self.model.device)
            logprobs = self.model(ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
            found.append(logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist())
        return found

    def resident_bytes(self) -> int:
        """Resident memory of the whole process."""
        return resident_bytes()
