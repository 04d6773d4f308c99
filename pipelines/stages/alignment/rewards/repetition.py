"""Whether an answer repeats itself: the share of its n-grams that are new."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample

WORDS = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]|[^\W_]+|[^\w\s]")  # or one character of Chinese


class RepetitionReward(Reward, frozen=True):
    """Distinct n-grams of words over all of them (Li et al. 2016, arXiv:1510.03055, distinct-n): 1 where nothing comes
    twice. An answer that is too short to have any has 1."""

    ngram: Annotated[int, Meta(ge=1)] = 4
    """Words of an n-gram; a Chinese, Japanese or Korean character is a word."""

    def of(self, sample: Sample) -> float:
        words = WORDS.findall(sample.answer)
        grams = [tuple(words[i : i + self.ngram]) for i in range(len(words) - self.ngram + 1)]
        return len(set(grams)) / len(grams) if grams else 1.0
