"""On-policy distillation: what a teacher would rather have said, token by token (Agarwal et al. 2024, arXiv:2306.13649,
the reverse KL on the student's own answers; as a policy gradient: Gu et al. 2024, arXiv:2306.08543, equation 2)."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from pipelines.stages.alignment.advantages.advantage import Advantage, Drawn, Judged, discounted


class Distillation(Advantage, frozen=True):
    """A_t = sum_s discount^s d_(t+s), d_t = log pi_teacher(t) - log pi(t): minus the gradient of KL(pi || teacher).
    Rewards are told and not learned from. The teacher is the input `teacher`, of the same vocabulary."""

    compares: ClassVar[bool] = False
    teaches: ClassVar[bool] = True
    discount: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """0: the KL of each token, those before it held fixed; 1: of whole answers, to which a token also contributes by
    where it leads, at a higher variance."""

    def of_tokens(self, drawn: Drawn) -> Judged:
        assert drawn.teacher is not None
        return Judged(discounted(drawn.teacher.double().where(drawn.learn, 0), self.discount).where(drawn.learn, 0))
