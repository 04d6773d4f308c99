"""The next token, of all tokens: what GPT, Llama and most others learn."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipelines.stages.training.objectives.objective import LanguageModel, documents


class CausalLM(LanguageModel):
    """Next-token prediction on packed documents: tokens (batch, length + 1) int64, padding negative."""

    draws = False
    shares_sequences = True

    @staticmethod
    def count_labels(batch: Any) -> int:
        return int((batch[:, 1:] >= 0).sum())  # all but the first and padding

    def forward(self, tokens: Tensor) -> Tensor:
        inputs, labels = tokens[:, :-1], tokens[:, 1:]
        inputs = inputs.where(inputs >= 0, self.eos_token_id)
        apart = self.apart(documents(inputs, self.eos_token_id))
        with self.autocast(tokens):
            logits = self.model(inputs, **apart, use_cache=False).logits
        return self.summed(logits, labels)


OBJECTIVE = CausalLM
