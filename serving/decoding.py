"""One token after another of an answer, by a model of transformers in this process; several answers take turns.

Each has a cache of its own and computes its tokens alone, so that an answer is to the bit what it is when nobody else
asks. Together they are as quick as one is: no token of two answers is computed at once.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, TextStreamer


class Turns:
    """A lock that goes to whoever has waited longest. (threading.Lock goes to whoever gives it back, mostly.)"""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.asked, self._given_back = 0, 0

    def __enter__(self) -> None:
        with self._changed:
            own = self.asked
            self.asked += 1
            self._changed.wait_for(lambda: self._given_back == own)

    def __exit__(self, *error: Any) -> None:
        with self._changed:
            self._given_back += 1
            self._changed.notify_all()


def decode(model: Any, prompt: Tensor, most: int, temperature: float, seed: int, turns: Turns) -> Iterator[int]:
    """Up to `most` tokens behind a prompt, (1, length), to one that ends a text; each is a turn of its own.

    Of the model's generation configuration count what ends a text, and the repetition penalty.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    ends, penalty = end_ids(model), model.generation_config.repetition_penalty or 1.0
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}
    drawn = torch.Generator(prompt.device).manual_seed(seed)
    cached: dict[str, Any] = {}
    over, given, text = model, prompt, prompt  # the first time through an adapter's virtual tokens
    for _ in range(most):
        with turns, torch.inference_mode():
            output = over(given, use_cache=True, **last, **cached)
            scores = output.logits[:, -1].float()
            if penalty != 1:
                scores = RepetitionPenaltyLogitsProcessor(penalty)(text, scores)
            token = _chosen(scores, temperature, drawn)
            text = torch.cat([text, token], dim=1)
        yield int(token)
        if int(token) in ends:
            return
        cache = getattr(output, "past_key_values", None)
        given, over = (text, model) if cache is None else (token, base)
        cached = {} if cache is None else {"past_key_values": cache}


def end_ids(model: Any) -> list[int]:
    """The tokens that end a text."""
    found = model.generation_config.eos_token_id
    return found if isinstance(found, list) else [] if found is None else [found]


def _chosen(scores: Tensor, temperature: float, drawn: torch.Generator) -> Tensor:
    """The next token, (1, 1), of scores (1, vocabulary): the likeliest at temperature 0, else one that is drawn."""
    if not temperature:
        return scores.argmax(-1, keepdim=True)
    return torch.multinomial((scores / temperature).softmax(-1), 1, generator=drawn)


class Pieces(TextStreamer):
    """Tokens as text, in pieces that do not change any more."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self._piece = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._piece += text

    def of(self, token: int) -> str:
        """What is certain of the text since the last piece, with another token."""
        self.put(torch.tensor([token]))
        return self._taken()

    def rest(self) -> str:
        """What is left when no token follows."""
        self.end()
        return self._taken()

    def _taken(self) -> str:
        piece, self._piece = self._piece, ""
        return piece
