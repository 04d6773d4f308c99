"""The objective of offline preference optimization: a loss of losses/ on what the policy thinks of whole answers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipelines.stages.alignment.offline.logprobs import AnswerLogprobs
from pipelines.stages.alignment.offline.losses.loss import Answers, PreferenceLoss

ACCURACY = "reward_accuracy"  # pairs whose chosen answer has the higher reward; of KTO, answers on their side of z
MARGIN = "reward_margin"  # mean reward of the chosen answers less that of the rejected
CHOSEN, REJECTED = "chosen_reward", "rejected_reward"
CHOSEN_LOGPROB, REJECTED_LOGPROB = "chosen_logprob", "rejected_logprob"  # nats an answer
BASELINE = "baseline"  # in the batches of KTO: the mean log ratio of mismatched answers (nats)


class Preference(AnswerLogprobs):
    """tokens (answers, length + 1); learn (answers, length), the tokens of the last answer; reference (answers,) in
    nats. Of pairs, the chosen stand in even rows and the rejected in odd ones.

    Of single answers besides: desirable (answers,) bool; weights (answers,), by which sums over a side become its mean;
    and `baseline`, the same in each row. A batch without it is one of mismatched answers, whose log ratios are summed.
    """

    names = (ACCURACY, MARGIN, CHOSEN, REJECTED, CHOSEN_LOGPROB, REJECTED_LOGPROB)

    def __init__(self, model: Any, precision: str, loss: PreferenceLoss) -> None:
        super().__init__(model, precision)
        self.loss = loss

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        answers = Answers(self.of(batch), batch["reference"], batch["learn"].sum(1))
        if self.loss.paired:
            return self._of_pairs(answers)
        return self._of_each(answers, batch) if BASELINE in batch else answers.log_ratios.sum()

    def _of_pairs(self, answers: Answers) -> Tensor:
        sides = [Answers(answers.logprobs[s::2], answers.reference[s::2], answers.tokens[s::2]) for s in (0, 1)]
        chosen, rejected = (self.loss.rewards(side) for side in sides)
        margins = chosen - rejected
        logprobs = [side.logprobs.sum() for side in sides]
        self.add_sums((margins > 0).sum(), margins.sum(), chosen.sum(), rejected.sum(), *logprobs)
        return self.loss.of_pairs(*sides).sum()

    def _of_each(self, answers: Answers, batch: dict[str, Tensor]) -> Tensor:
        desirable, weights, baseline = batch["desirable"], batch["weights"], batch[BASELINE][0]
        rewards, bad = self.loss.rewards(answers), ~desirable
        right = (answers.log_ratios > baseline.clamp(min=0)) == desirable

        def sums(values: Tensor) -> tuple[Tensor, Tensor]:
            return (values * weights)[desirable].sum(), (values * weights)[bad].sum()

        chosen, rejected = sums(rewards)
        self.add_sums(right.sum(), chosen - rejected, chosen, rejected, *sums(answers.logprobs))
        return self.loss.of_each(answers, desirable, baseline).sum()
