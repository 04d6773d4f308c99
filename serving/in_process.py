"""A model in this process, through transformers: no server, no Ray, ready in seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, StoppingCriteriaList, TextIteratorStreamer
from transformers.utils import logging

from cluster.core.adapters import context_of, open_model
from cluster.core.errors import InputError, JobError
from cluster.core.storage.artifact import Artifact
from cluster.core.typed_text import prompt_ids
from serving.talk import Messages, Sampling, too_long, transcript, until_user


@dataclass
class Told:
    """What there is to tell of an answer when it has ended: its tokens, and whether it ended by itself."""

    tokens: int = 0
    finished: bool = False


class InProcess:
    """A talker on a model artifact, whole or an adapter over another, in float32 on CPUs."""

    def __init__(self, artifact: Artifact) -> None:
        logging.disable_progress_bar()
        self.name = artifact.record.ref
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype: Any = "auto" if device == "cuda" else torch.float32
        self.model = open_model(artifact, dtype=dtype).to(device).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(artifact.local())
        self.context_tokens = context_of(artifact) or 0

    def count(self, prompt: str | Messages, max_tokens: int) -> int:
        return int(self.prompt(prompt)["input_ids"].shape[1])

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        return self.told(prompt, sampling, Told())

    def answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        return self.told(messages, sampling, Told())

    def told(self, given: str | Messages, sampling: Sampling, told: Told) -> Iterator[str]:
        """A continuation or an answer, piece by piece; at its end `told` is filled in."""
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
        stopped = threading.Event()
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        options: dict[str, Any] = {"do_sample": False}
        if sampling.temperature:
            options = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
        end = self.model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end]
        failure: list[BaseException] = []

        def work() -> None:
            torch.manual_seed(sampling.seed)
            try:
                found = self.model.generate(
                    **{name: tensor.to(self.model.device) for name, tensor in inputs.items()},
                    **options,
                    max_new_tokens=min(sampling.max_tokens, room),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([lambda *_, **__: stopped.is_set()]),
                )[0, length:].tolist()
                told.tokens, told.finished = len(found), found[-1] in ends
            except Exception as error:  # handed to the reader, who raises it
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield from (piece for piece in streamer if piece)
        finally:
            stopped.set()
            thread.join()
        if failure:
            raise JobError(f"the model failed: {failure[0]}") from failure[0]
