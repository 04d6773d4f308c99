"""Completions as evaluations ask for them (lm-eval's `local-completions`): several prompts, token ids, `echo`, and the
log-probabilities of tokens; over a model in this process, and never streamed.

Log-probabilities are of one pass over prompt and answer, in float32, before any temperature.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch

from cluster.core.errors import InputError
from serving.decoding import Pieces, decode, end_ids
from serving.in_process import InProcess
from serving.talk import Sampling, too_long, until

MOST_LOGPROBS = 100  # beside the endpoint's own limit
Prompts = list[str | list[int]]


def wants_measuring(asked: dict[str, Any]) -> bool:
    """Whether a request for a completion asks for more than the continuation of one text."""
    more = asked.get("echo") or asked.get("logprobs") is not None
    return bool(more) or isinstance(asked.get("prompt"), list)


class Measured:
    """One such request. Raises InputError for what cannot be met."""

    def __init__(self, asked: dict[str, Any], sampling: Sampling, stops: tuple[str, ...], talker: InProcess) -> None:
        self.talker, self.sampling, self.echo = talker, sampling, bool(asked.get("echo"))
        given = asked.get("logprobs")
        if asked.get("stream"):
            raise InputError("stream: not with several prompts, token ids, echo or logprobs", "Leave it out.")
        if given is not None and (type(given) is not int or not 0 <= given <= MOST_LOGPROBS):
            raise InputError(f"logprobs: a number of 0 to {MOST_LOGPROBS}, or nothing")
        self.top: int | None = given
        self.stops = stops
        self.prompts = [self._ids(prompt) for prompt in _listed(asked.get("prompt"))]
        for ids in self.prompts:
            if talker.context_tokens and len(ids) + sampling.max_tokens > talker.context_tokens:
                raise too_long(talker.context_tokens)
        self.prompt_tokens = sum(map(len, self.prompts))

    def choices(self) -> Generator[tuple[dict[str, Any], int]]:
        """The answer to each prompt, as the API tells it, and how many tokens were written."""
        model = self.talker.model
        for index, ids in enumerate(self.prompts):
            written: list[int] = []
            pieces = until(self._pieces(ids, written), *self.stops)
            text, ended = "", False
            while True:
                try:
                    text += next(pieces)
                except StopIteration as end:
                    ended = end.value or (bool(written) and written[-1] in end_ids(model))
                    break
            before = self.talker.tokenizer.decode(ids, skip_special_tokens=True) if self.echo else ""
            choice = {"index": index, "text": before + text}
            told = self._logprobs(ids + written, 0 if self.echo else len(ids)) if self.top is not None else None
            yield {**choice, "logprobs": told, "finish_reason": "stop" if ended else "length"}, len(written)

    def _pieces(self, ids: list[int], written: list[int]) -> Iterator[str]:
        """The text behind a prompt, as far as it is certain; its tokens go into `written`."""
        model, text, given = self.talker.model, Pieces(self.talker.tokenizer), self.sampling
        prompt = torch.tensor([ids], device=model.device)
        for token in decode(model, prompt, given.max_tokens, given.temperature, given.seed, self.talker.turns):
            written.append(token)
            yield text.of(token)
        yield text.rest()

    def _logprobs(self, ids: list[int], begin: int) -> dict[str, Any]:
        """Of the tokens from `begin` on, as the API tells them; the first of a text has none."""
        with self.talker.turns, torch.inference_mode():
            logits = self.talker.model(torch.tensor([ids], device=self.talker.model.device), use_cache=False).logits[0]
        found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        offset = 0
        for place in range(begin, len(ids)):
            text = self._text(ids[place])
            found["tokens"].append(text)
            found["text_offset"].append(offset)
            offset += len(text)
            if place == 0:
                found["token_logprobs"].append(None)
                found["top_logprobs"].append(None)
                continue
            scores = logits[place - 1].float().log_softmax(-1)
            own = float(scores[ids[place]])
            best = scores.topk(min(self.top or 0, len(scores)))
            top: dict[str, float] = {}
            for token, score in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                top.setdefault(self._text(token), score)  # of tokens with one text, parts of a character, the likeliest
            top.setdefault(text, own)
            found["token_logprobs"].append(own)
            found["top_logprobs"].append(top)
        return found

    def _text(self, token: int) -> str:
        return str(self.talker.tokenizer.decode([token]))

    def _ids(self, prompt: Any) -> list[int]:
        if isinstance(prompt, str):
            prompt = self.talker.prompt(prompt)["input_ids"][0].tolist()
        rows = self.talker.model.get_input_embeddings().num_embeddings
        if not prompt or not all(type(each) is int and 0 <= each < rows for each in prompt):
            raise InputError(f"prompt: a text, or token ids of 0 to {rows - 1}, at least one")
        return list(prompt)


def _listed(prompt: Any) -> list[Any]:
    """The prompts: texts, or lists of token ids."""
    if isinstance(prompt, list) and prompt and all(type(each) is int for each in prompt):
        return [prompt]
    found = prompt if isinstance(prompt, list) else [prompt]
    if not found or not all(isinstance(each, str | list) for each in found):
        raise InputError("prompt: missing, or not of its kind", "Give texts, or token ids.")
    return found
