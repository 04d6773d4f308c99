"""What pipelines are written with: every spec, and the structs that they are made of, such as rules of a corpus.

`SPECS` finds specs by their kind. What is in a list of its own, such as the rules, is here as soon as it is there.
"""

# ruff: noqa: F401, F403

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.infra import InfraSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import Spec
from pipelines.stages.alignment.spec import PreferencesSpec, RewardSpec, RlhfSpec
from pipelines.stages.compression.spec import QuantizeSpec
from pipelines.stages.corpus.dedup.spec import LineDedup, MinHash
from pipelines.stages.corpus.readers import *
from pipelines.stages.corpus.rules import *
from pipelines.stages.corpus.spec import CorpusSpec
from pipelines.stages.evaluation.spec import BenchmarkSpec, ComparisonSpec, EvaluationSpec, ExportSpec, PerplexitySpec
from pipelines.stages.generation.spec import GenerationSpec, HumanEvalSpec
from pipelines.stages.tokens.mixing.spec import MixturePhase, MixtureSpec
from pipelines.stages.tokens.spec import TokenizerSpec, TokensSpec
from pipelines.stages.tokens.tokenizers.vocabulary_spec import ExtendedModelSpec, VocabularySpec
from pipelines.stages.training.spec import PretrainSpec, TrainingSpec
from pipelines.stages.tuning.spec import ConversationsSpec, PretrainedSpec, SftSpec

SPECS: dict[str, type[Spec]] = {
    cls.kind: cls
    for cls in (
        CorpusSpec,
        TokenizerSpec,
        VocabularySpec,
        TokensSpec,
        MixtureSpec,
        PretrainSpec,
        PretrainedSpec,
        ExtendedModelSpec,
        ConversationsSpec,
        SftSpec,
        PreferencesSpec,
        RewardSpec,
        RlhfSpec,
        QuantizeSpec,
        EvaluationSpec,
        PerplexitySpec,
        BenchmarkSpec,
        ComparisonSpec,
        GenerationSpec,
        HumanEvalSpec,
        ExportSpec,
        EndpointSpec,
        InfraSpec,
        ScalingSpec,
    )
}
