"""The log-probabilities of whole answers under a model."""

from __future__ import annotations

from torch import Tensor

from pipelines.stages.alignment.logprobs import label_logprobs
from pipelines.stages.tuning.recipe import AnswerLM


class AnswerLogprobs(AnswerLM):
    """A model that is asked what it thinks of the marked tokens: tokens (rows, length + 1), learn (rows, length)."""

    def of(self, batch: dict[str, Tensor]) -> Tensor:
        """The sum of the log-probabilities (nats) of each row's marked tokens, (rows,) fp32."""
        inputs, labels, learn = batch["tokens"][:, :-1], batch["tokens"][:, 1:], batch["learn"]
        with self.autocast(inputs), self.output_layer.asked(learn):
            logits = self.model(inputs, use_cache=False).logits
        found = label_logprobs(logits, labels[learn])
        return found.new_zeros(len(inputs)).index_add(0, learn.nonzero()[:, 0], found)
