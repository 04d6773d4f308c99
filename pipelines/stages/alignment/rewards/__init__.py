"""The list of all rewards. A new one is a file of this folder and a line here."""

# ruff: noqa: F401

from typing import TYPE_CHECKING, TypeAlias

from cluster.core.specs.listing import listed
from pipelines.stages.alignment.rewards.format import FormatReward
from pipelines.stages.alignment.rewards.gsm8k import Gsm8k
from pipelines.stages.alignment.rewards.judge import Judge
from pipelines.stages.alignment.rewards.judge_model import JudgeModel
from pipelines.stages.alignment.rewards.language import LanguageReward
from pipelines.stages.alignment.rewards.length import LengthReward
from pipelines.stages.alignment.rewards.mathematics import Mathematics
from pipelines.stages.alignment.rewards.pairwise_judge import PairwiseJudge
from pipelines.stages.alignment.rewards.passes_tests import PassesTests
from pipelines.stages.alignment.rewards.process import ProcessReward
from pipelines.stages.alignment.rewards.python import PythonReward
from pipelines.stages.alignment.rewards.python_parses import PythonParses
from pipelines.stages.alignment.rewards.reasoning_gym import ReasoningGym
from pipelines.stages.alignment.rewards.repetition import RepetitionReward
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.served_reward_model import ServedRewardModel
from pipelines.stages.alignment.rewards.verifiers import VerifiersReward

if TYPE_CHECKING:
    AnyReward: TypeAlias = Reward
else:
    AnyReward, __all__ = listed(Reward, globals())
