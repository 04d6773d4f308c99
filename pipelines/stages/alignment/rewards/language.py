"""Whether an answer is in a language; DeepSeek-R1 has such a reward against mixing them (arXiv:2501.12948, 2.3.2)."""

from __future__ import annotations

from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

OF_REQUEST = ""


class LanguageReward(Reward, frozen=True):
    """How sure the identification of languages is (0 to 1) that the answer is in the language; 0 for another one."""

    language: str = OF_REQUEST
    """ISO 639 code, as lid.176 says it (`en`, `zh`, `wuu`); empty: that of the request."""

    def require(self) -> None:
        from pipelines.stages.corpus.rules.identification import model

        model()

    def prepare(self) -> None:
        self.require()

    def of(self, sample: Sample) -> float:
        from pipelines.stages.corpus.rules.identification import identify

        wanted = self.language or identify(sample.request)[0]
        found, score = identify(sample.answer)
        return score if found == wanted else 0.0
