"""NEFTune: uniform noise on the embeddings of what is trained on (Jain et al. 2023, arXiv:2310.05914).

The noise of a sequence is a function of the seed, the step and its tokens: a resumed run draws the same, and neither
the number of workers nor the size of micro-batches changes it. In validation there is none.
"""

from __future__ import annotations

import zlib
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.stages.training.loop import mix
from pipelines.stages.training.objectives.objective import Objective


def add_noise(objective: Objective, alpha: float, seed: int) -> None:
    """Have the embeddings of an objective on conversations (`tokens` and `learn` in its batches) be noised by
    alpha / sqrt(length * width) at most, whenever it is trained."""
    batches: list[dict[str, Tensor]] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        batches[:] = inputs[:1]

    def noised(module: nn.Module, inputs: tuple[Any, ...], embedded: Tensor) -> Tensor:
        if not objective.training:
            return embedded
        (batch,) = batches
        noise = noise_of(batch, embedded.size(-1), alpha, mix(seed, objective.step))
        part, length = objective.sequence_part, embedded.size(1)  # this rank's, where workers share sequences
        noise = F.pad(noise, (0, 0, 0, part.size * length - noise.size(1)))
        return embedded + noise[:, part.number * length :][:, :length].to(embedded)

    objective.register_forward_pre_hook(keep)
    embeddings: Any = objective.model
    embeddings.get_input_embeddings().register_forward_hook(noised)


def noise_of(batch: dict[str, Tensor], width: int, alpha: float, seed: int) -> Tensor:
    """Noise (batch, length, width) float32 for the inputs of a batch, whose `tokens` are (batch, length + 1).

    Conversations that are packed into a row, as its `starts` tell, have each the noise that they have alone.
    """
    tokens, learn = batch["tokens"].cpu(), batch["learn"].cpu()
    noise = torch.zeros(len(tokens), tokens.size(1) - 1, width)
    places = torch.arange(1, tokens.size(1) + 1)
    for row, (ids, learned) in enumerate(zip(tokens, F.pad(learn, (1, 0)), strict=True)):
        end = int(places[(ids != 0) | learned].max())  # the padding is zeros, from which nothing is learned
        starts = batch["starts"][row].nonzero().flatten().tolist() if "starts" in batch else [0]
        for begin, stop in pairwise([*starts, max(end, starts[-1])]):
            drawn = torch.Generator().manual_seed(mix(seed, zlib.crc32(ids[begin:stop].numpy().tobytes())))
            bound = alpha / ((stop - begin) * width) ** 0.5 if stop > begin else 0.0
            into = noise[row, begin:stop]
            into += torch.empty(stop - begin, width).uniform_(-bound, bound, generator=drawn)[: len(into)]
    return noise
