"""Every spec, one module a family. `SPECS` finds them by kind."""

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.infra import InfraSpec
from cluster.core.specs.scaling import ScalingSpec
from cluster.core.specs.spec import Spec
from pipelines.stages.alignment.spec import PreferencesSpec, RewardSpec, RlhfSpec
from pipelines.stages.compression.spec import QuantizeSpec
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

__all__ = [
    "SPECS",
    "BenchmarkSpec",
    "ComparisonSpec",
    "ConversationsSpec",
    "CorpusSpec",
    "EndpointSpec",
    "EvaluationSpec",
    "ExportSpec",
    "ExtendedModelSpec",
    "GenerationSpec",
    "HumanEvalSpec",
    "InfraSpec",
    "MixturePhase",
    "MixtureSpec",
    "PerplexitySpec",
    "PreferencesSpec",
    "PretrainSpec",
    "PretrainedSpec",
    "QuantizeSpec",
    "RewardSpec",
    "RlhfSpec",
    "ScalingSpec",
    "SftSpec",
    "Spec",
    "TokenizerSpec",
    "TokensSpec",
    "TrainingSpec",
    "VocabularySpec",
]
