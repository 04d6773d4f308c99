"""What computes for the routes of pooling: vLLM's engine, or a model of transformers in this process.

Both give the model's own numbers: logits of a score or of labels, and of a vector the hidden state before its length is
made 1. What is made of them is the routes' business (serving/pooling/routes.py).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import torch
from fastapi.concurrency import run_in_threadpool

from cluster.core.pooling import Pooling
from cluster.core.storage.artifact import Artifact
from serving.decoding import Turns
from serving.pooling.reading import Row

Pool = Callable[[Sequence[Row]], Awaitable[list[list[float]]]]


def over_engine(engine: Any) -> Pool:
    """What vLLM's engine makes of texts. It computes all of a request together."""
    from vllm import PoolingParams

    async def one(row: Row) -> list[float]:
        params = PoolingParams(task="classify", use_activation=False)
        found: list[float] = []
        async for output in engine.encode({"prompt_token_ids": row.ids}, params, f"pool-{secrets.token_hex(8)}"):
            found = output.outputs.data.float().flatten().tolist()
        return found

    async def pool(rows: Sequence[Row]) -> list[list[float]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in rows]
        return [task.result() for task in tasks]

    return pool


def open_classifier(artifact: Artifact, **options: Any) -> Any:
    """A sequence classifier of transformers."""
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(artifact.local(), **options)


def open_encoder(artifact: Artifact, **options: Any) -> Any:
    """A model of transformers without its head: nothing of what it makes depends on one."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(artifact.local(), **options)


class OverTransformers:
    """A model in this process, in float32 on CPUs. Texts take turns, one at a time: what comes of one is to the bit
    what it is alone."""

    def __init__(self, artifact: Artifact, pooling: Pooling) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype: Any = "auto" if device == "cuda" else torch.float32
        opened = open_encoder if pooling.makes == "embedding" else open_classifier
        self.model = opened(artifact, dtype=dtype).to(device).eval()
        self.pooling, self.turns = pooling, Turns()

    async def __call__(self, rows: Sequence[Row]) -> list[list[float]]:
        return [await run_in_threadpool(self._one, row) for row in rows]

    def _one(self, row: Row) -> list[float]:
        ids = torch.tensor([row.ids], device=self.model.device)
        types = {"token_type_ids": torch.tensor([row.types], device=ids.device)} if row.types else {}
        mask = torch.ones_like(ids)
        with self.turns, torch.inference_mode():
            if self.pooling.makes != "embedding":
                logits = self.model(input_ids=ids, attention_mask=mask, **types).logits
                return [float(each) for each in logits[0].float()]
            hidden = self.model(input_ids=ids, attention_mask=mask, **types).last_hidden_state[0].float()
            return [float(each) for each in _of_tokens(hidden, self.pooling.tokens)]


def _of_tokens(hidden: torch.Tensor, which: Literal["mean", "cls", "last"]) -> torch.Tensor:
    """One vector (hidden size,) of the states of tokens (tokens, hidden size)."""
    return hidden.mean(0) if which == "mean" else hidden[0 if which == "cls" else -1]
