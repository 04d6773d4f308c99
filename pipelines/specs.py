"""What pipelines are written with: every spec, a line each, in the order of `ctl spec list`, and the structs that they
are made of, such as the rules of a corpus. `SPECS` finds specs by their kind.
"""

# ruff: isort: skip_file
# ruff: noqa: F403
from cluster.core.specs.spec import Spec as Spec
from pipelines.stages.corpus.spec import CorpusSpec as CorpusSpec
from pipelines.stages.tokens.spec import TokenizerSpec as TokenizerSpec
from pipelines.stages.tokens.tokenizers.vocabulary_spec import VocabularySpec as VocabularySpec
from pipelines.stages.tokens.spec import TokensSpec as TokensSpec
from pipelines.stages.tokens.mixing.spec import MixtureSpec as MixtureSpec
from pipelines.stages.training.spec import PretrainSpec as PretrainSpec
from pipelines.stages.tuning.spec import PretrainedSpec as PretrainedSpec
from pipelines.stages.tokens.tokenizers.vocabulary_spec import ExtendedModelSpec as ExtendedModelSpec
from pipelines.stages.tuning.spec import ConversationsSpec as ConversationsSpec
from pipelines.stages.making.spec import SyntheticSpec as SyntheticSpec
from pipelines.stages.tuning.spec import SftSpec as SftSpec
from pipelines.stages.tuning.adapters.spec import AdapterSpec as AdapterSpec
from pipelines.stages.tuning.adapters.spec import MergedSpec as MergedSpec
from pipelines.stages.alignment.preference_spec import PreferencesSpec as PreferencesSpec
from pipelines.stages.alignment.preference_spec import RewardSpec as RewardSpec
from pipelines.stages.alignment.offline.spec import ReferenceSpec as ReferenceSpec
from pipelines.stages.alignment.offline.spec import DpoSpec as DpoSpec
from pipelines.stages.alignment.tasks.spec import TasksSpec as TasksSpec
from pipelines.stages.alignment.spec import RlhfSpec as RlhfSpec
from pipelines.stages.compression.spec import PruneSpec as PruneSpec
from pipelines.stages.compression.spec import QuantizeSpec as QuantizeSpec
from pipelines.stages.compression.spec import QualitySpec as QualitySpec
from pipelines.stages.evaluation.spec import EvaluationSpec as EvaluationSpec
from pipelines.stages.evaluation.spec import PerplexitySpec as PerplexitySpec
from pipelines.stages.evaluation.spec import BenchmarkSpec as BenchmarkSpec
from pipelines.stages.evaluation.spec import ComparisonSpec as ComparisonSpec
from pipelines.stages.evaluation.spec import GenerationSpec as GenerationSpec
from pipelines.stages.evaluation.spec import JudgementSpec as JudgementSpec
from pipelines.stages.evaluation.spec import HumanEvalSpec as HumanEvalSpec
from pipelines.stages.load.spec import LoadSpec as LoadSpec
from pipelines.stages.export.spec import ExportSpec as ExportSpec
from cluster.core.specs.endpoint import EndpointSpec as EndpointSpec
from cluster.core.specs.infra import InfraSpec as InfraSpec
from cluster.core.specs.scaling import ScalingSpec as ScalingSpec

# Parts of specs and their bases, which have no kind. Of readers, rules and methods all that their lists have.
from pipelines.stages.alignment.advantages import *
from pipelines.stages.alignment.advantages.advantage import ValueFunction as ValueFunction
from pipelines.stages.alignment.environments import *
from pipelines.stages.alignment.correction import Correction as Correction
from pipelines.stages.alignment.kl_control import AdaptiveKl as AdaptiveKl
from pipelines.stages.alignment.losses import *
from pipelines.stages.alignment.rewards import *
from pipelines.stages.compression.balancing import *
from pipelines.stages.compression.pruning import *
from pipelines.stages.compression.rounding import *
from pipelines.stages.corpus.dedup.spec import LineDedup as LineDedup
from pipelines.stages.corpus.dedup.spec import MinHash as MinHash
from pipelines.stages.alignment.offline.losses import *
from pipelines.stages.corpus.readers import *
from pipelines.stages.corpus.rules import *
from pipelines.stages.tokens.mixing.spec import MixturePhase as MixturePhase
from pipelines.stages.generation.endpoint import ChatEndpoint as ChatEndpoint
from pipelines.stages.making.makers import *
from pipelines.stages.training.spec import TrainingSpec as TrainingSpec
from pipelines.stages.tuning.methods import *

SPECS: dict[str, type[Spec]] = {
    value.kind: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, Spec) and hasattr(value, "kind")
}
