"""Filling blanks with a trained GLM: part B, token by token, the likeliest one each time.

Blanks are filled from left to right; each sees the text and the blanks that are filled already, as in training. Nothing
is cached between tokens: the time grows with the square of what is filled.

    filler = Filler.open(artifact.local())
    filler.fill_text("def area([MASK]):\n    return width * height\n")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from cluster.core.errors import InputError
from pipelines.stages.training.models.models import load_model
from pipelines.stages.training.objectives.infilling import visible
from pipelines.stages.training.objectives.markers import NAMES, markers_of


@dataclass
class Filler:
    """A model of blank infilling, its tokenizer, and the ids of its markers by role (`markers.NAMES`)."""

    model: Any
    tokenizer: Tokenizer
    roles: dict[str, int]

    @classmethod
    def open(cls, folder: Path) -> Filler:
        """The model of a pretrain artifact. Raises InputError where its tokenizer lacks the ends of a blank."""
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        model = load_model(folder).eval()
        size = model.config.vocab_size
        vocabulary = tokenizer.get_vocab()
        masks = [role for role, names in NAMES.items() if role.endswith("mask") and vocabulary.keys() & set(names)]
        return cls(model, tokenizer, markers_of(tokenizer, [*masks, "start", "end"], size, str(folder)).roles)

    def fill_text(self, text: str, max_tokens: int = 32) -> list[str]:
        """What a text has in its blanks, which it names `[MASK]`, `[sMASK]` or `[gMASK]`, from left to right.

        The text stands for a whole document or its beginning.
        """
        ids = [self.model.config.eos_token_id, *self.tokenizer.encode(text, add_special_tokens=False).ids]
        return [self.tokenizer.decode(tokens) for tokens in self.fill(ids, max_tokens)]

    @torch.inference_mode()
    def fill(self, part_a: Sequence[int], max_tokens: int = 32, lengths: Sequence[int] = ()) -> list[list[int]]:
        """The tokens of each blank of a document (its ids, masks in their places), without what begins and ends them.

        A blank ends where the model ends it, after `max_tokens`, or where the positions run out; with `lengths`, after
        so many tokens and no sooner. Raises InputError for more ids than the model has positions.
        """
        limit = self.model.config.max_position_embeddings
        if len(part_a) > limit:
            raise InputError(f"a text of {len(part_a)} tokens for a model of {limit} positions", "Cut it.")
        masks = {number for role, number in self.roles.items() if role.endswith("mask")}
        inputs, positions, blocks = list(part_a), list(range(len(part_a))), [0] * len(part_a)
        special, filled = sorted({*self.roles.values(), self.model.config.eos_token_id}), []
        for number, place in enumerate(place for place, token in enumerate(part_a) if token in masks):
            wanted = min(lengths[number] if lengths else max_tokens, limit)
            tokens: list[int] = []
            token = self.roles["start"]
            while len(tokens) < wanted:
                inputs, positions, blocks = [*inputs, token], [*positions, place], [*blocks, len(tokens) + 1]
                logits = self._last(inputs, positions, blocks)
                end = float(logits[self.roles["end"]])
                logits[special] = -torch.inf
                if not lengths and end > float(logits.max()):
                    break
                token = int(logits.argmax())
                tokens.append(token)
            else:  # the last token is there for the blanks behind this one
                inputs, positions, blocks = [*inputs, token], [*positions, place], [*blocks, len(tokens) + 1]
            filled.append(tokens)
        return filled

    def _last(self, inputs: list[int], positions: list[int], blocks: list[int]) -> torch.Tensor:
        """The logits behind the last token, (vocabulary,)."""
        device = self.model.device
        block = torch.tensor([blocks], device=device)
        return self.model(
            torch.tensor([inputs], device=device),
            position_ids=torch.stack([torch.tensor([positions], device=device), block], dim=1),
            attention_mask=visible(torch.zeros_like(block), block),
        ).logits[0, -1]
