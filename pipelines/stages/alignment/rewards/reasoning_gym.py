"""Whether a task of reasoning-gym is solved, by its own checker."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.tasks.gym import reasoning_gym

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


class ReasoningGym(Reward, frozen=True):
    """What the checker of the task says of the answer, 0 to 1: of what stands between the last `<answer>` and
    `</answer>`, or of all of it where there is no such place. An answer that was cut off is never right.

    The prompt's reference is the task, as the artifact `tasks` has it.
    """

    needs_reference: ClassVar[bool] = True

    def require(self) -> None:
        reasoning_gym()

    def prepare(self) -> None:
        reasoning_gym()

    def check_reference(self, reference: str) -> None:
        _entry(reference)

    def of(self, sample: Sample) -> float:
        if not sample.finished:
            return 0.0
        entry = _entry(sample.reference)
        marked = ANSWER.findall(sample.answer)
        check = reasoning_gym().get_score_answer_fn(entry["metadata"]["source_dataset"])
        return float(check((marked[-1] if marked else sample.answer).strip(), entry))


def _entry(reference: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(reference)
        entry["metadata"]["source_dataset"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("is no task of reasoning-gym") from None
    return entry
