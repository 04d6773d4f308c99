"""A model in this process, through transformers: no server, no Ray, ready in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer
from transformers.utils import logging

from cluster.core.adapters import context_of, open_model
from cluster.core.errors import InputError, JobError
from cluster.core.pooling import pooling_of
from cluster.core.storage.artifact import Artifact
from cluster.core.typed_text import prompt_ids
from serving.decoding import Pieces, Turns, decode, end_ids
from serving.talk import Messages, Sampling, too_long, transcript, until_user


@dataclass
class Told:
    """What there is to tell of an answer so far: its tokens, and whether it has ended by itself."""

    tokens: int = 0
    finished: bool = False


class InProcess:
    """A talker on a model artifact, whole or an adapter over another, in float32 on CPUs. Several threads may ask at
    once: their answers take turns, token by token."""

    def __init__(self, artifact: Artifact) -> None:
        logging.disable_progress_bar()
        self.name = artifact.record.ref
        if pooling := pooling_of(artifact):
            remedy = "Give a model that writes; `ctl serve up` serves this one."
            raise InputError(f"{self.name} {pooling.told}, and does not write", remedy)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype: Any = "auto" if device == "cuda" else torch.float32
        self.model = open_model(artifact, dtype=dtype).to(device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(artifact.local())
        self.context_tokens = context_of(artifact) or 0
        self.turns = Turns()

    def count(self, prompt: str | Messages, max_tokens: int) -> int:
        return int(self.prompt(prompt)["input_ids"].shape[1])

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        return self.told(prompt, sampling, Told())

    def answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        return self.told(messages, sampling, Told())

    def told(self, given: str | Messages, sampling: Sampling, told: Told) -> Iterator[str]:
        """A continuation or an answer, piece by piece, of which `told` tells."""
        pieces = self._stream(self.prompt(given), sampling, told)
        return pieces if isinstance(given, str) or self.tokenizer.chat_template else until_user(pieces)

    def prompt(self, given: str | Messages) -> dict[str, torch.Tensor]:
        """What the model is given for a text or a conversation; a special token that somebody typed in a conversation
        is its letters."""
        if isinstance(given, str) or not self.tokenizer.chat_template:
            text = given if isinstance(given, str) else transcript(given)
            return dict(self.tokenizer(text, return_tensors="pt", return_token_type_ids=False))
        try:
            ids = torch.tensor([prompt_ids(self.tokenizer, given)])
        except TemplateError as error:
            raise InputError(f"the chat template of {self.name} refuses the conversation: {error}") from None
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _stream(self, inputs: dict[str, Any], sampling: Sampling, told: Told) -> Iterator[str]:
        length = inputs["input_ids"].shape[1]
        if not length:
            raise InputError("the prompt is empty", "Give the model something to continue.")
        room = self.context_tokens - length if self.context_tokens else sampling.max_tokens
        if room < 1:
            raise too_long(self.context_tokens)
        most = min(sampling.max_tokens, room)
        ids, text = inputs["input_ids"].to(self.model.device), Pieces(self.tokenizer)
        ends = end_ids(self.model)
        try:
            for token in decode(self.model, ids, most, sampling.temperature, sampling.seed, self.turns):
                told.tokens, told.finished = told.tokens + 1, token in ends
                if piece := text.of(token):
                    yield piece
        except Exception as error:
            raise JobError(f"the model failed: {error}") from error
        if piece := text.rest():
            yield piece
