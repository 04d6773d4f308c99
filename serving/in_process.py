"""A model in this process, through transformers: no server, no Ray, ready in seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList, TextIteratorStreamer
from transformers.utils import logging

from cluster.artifact import Artifact
from cluster.errors import InputError, JobError
from serving.talk import Messages, Sampling, context_tokens, too_long, transcript, until_user


class InProcess:
    """A talker on a model artifact (pretrain or export), in float32 on CPUs."""

    def __init__(self, artifact: Artifact) -> None:
        if "config.json" not in artifact.record.files:
            raise InputError(f"{artifact.record.ref} is not a model: it has no config.json", "Give a model artifact.")
        logging.disable_progress_bar()
        folder = artifact.local()
        self.name = artifact.record.ref
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype: Any = "auto" if device == "cuda" else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.context_tokens = context_tokens(self.model.config.to_dict())

    def count(self, prompt: str | Messages, max_tokens: int) -> int:
        return int(self._inputs(prompt)["input_ids"].shape[1])

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        return self._stream(self._inputs(prompt), sampling)

    def answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        pieces = self._stream(self._inputs(messages), sampling)
        return pieces if self.tokenizer.chat_template else until_user(pieces)

    def _inputs(self, prompt: str | Messages) -> dict[str, Any]:
        if not isinstance(prompt, str):
            if self.tokenizer.chat_template:
                return dict(
                    self.tokenizer.apply_chat_template(
                        prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
                    )
                )
            prompt = transcript(prompt)
        return dict(self.tokenizer(prompt, return_tensors="pt", return_token_type_ids=False))

    def _stream(self, inputs: dict[str, Any], sampling: Sampling) -> Iterator[str]:
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
        failure: list[BaseException] = []

        def work() -> None:
            torch.manual_seed(sampling.seed)
            try:
                self.model.generate(
                    **{name: tensor.to(self.model.device) for name, tensor in inputs.items()},
                    **options,
                    max_new_tokens=min(sampling.max_tokens, room),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([lambda *_, **__: stopped.is_set()]),
                )
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
