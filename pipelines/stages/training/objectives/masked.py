"""Masked language modelling (BERT: Devlin et al. 2019, arXiv:1810.04805, section 3.1 and appendix A.2).

Of a fraction of a sequence's tokens (there 15 %) the model has to tell what they were; of these 80 % are replaced by
the mask token, 10 % by a random one and 10 % stay. Sequences are masked anew in every epoch, and no next sentence is
predicted (RoBERTa: Liu et al. 2019, arXiv:1907.11692).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipelines.stages.training.objectives.markers import Tokens
from pipelines.stages.training.objectives.objective import NO_LABEL, Drawing, LanguageModel, documents

REPLACED, RANDOM = 0.8, 0.1


@dataclass(frozen=True)
class Masked:
    """Both of the shape of the tokens; `labels` is NO_LABEL wherever nothing is asked."""

    inputs: Tokens
    labels: Tokens


def mask_tokens(tokens: Tokens, ordinary: Tokens, mask: int, fraction: float, rng: np.random.Generator) -> Masked:
    """Mask a sequence, shape (length,). Only `ordinary` tokens, ids ascending, are asked for and put in as random ones.

    Exactly that `fraction` of those is asked for, rounded to the nearest, at least one.
    """
    eligible = np.flatnonzero(np.isin(tokens, ordinary))
    count = min(len(eligible), max(1, round(fraction * len(eligible))))
    chosen = rng.choice(eligible, count, replace=False) if count else eligible
    inputs, labels = tokens.copy(), np.full_like(tokens, NO_LABEL)
    labels[chosen] = tokens[chosen]
    draw = rng.random(count)
    inputs[chosen[draw < REPLACED]] = mask
    random = chosen[(draw >= REPLACED) & (draw < REPLACED + RANDOM)]
    inputs[random] = rng.choice(ordinary, len(random))
    return Masked(inputs, labels)


class MaskedLM(LanguageModel):
    """What masked tokens were, on packed documents: `inputs` and `labels` (batch, length) int64, padding negative."""

    markers = ("mask",)
    families = ("bert",)
    head = "AutoModelForMaskedLM"
    unfit = "has not been made for masked tokens"

    @classmethod
    def draw(cls, sequence: Tokens, rng: np.random.Generator, drawing: Drawing) -> dict[str, Tokens]:
        markers = drawing.markers
        found = mask_tokens(sequence[:-1], markers.ordinary, markers.roles["mask"], drawing.fraction, rng)
        return {"inputs": found.inputs, "labels": found.labels}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        inputs = batch["inputs"].where(batch["inputs"] >= 0, self.eos_token_id)
        apart = self.apart(documents(inputs, self.eos_token_id, causal=False))
        with self.autocast(inputs):
            logits = self.model(inputs, **apart).logits
        return self.summed(logits, batch["labels"])


OBJECTIVE = MaskedLM
