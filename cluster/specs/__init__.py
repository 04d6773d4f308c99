"""Every spec, one module a family. `SPECS` finds them by kind."""

from cluster.spec import Spec
from cluster.specs.corpus import CorpusSpec
from cluster.specs.scaling import ScalingSpec
from cluster.specs.serving import EndpointSpec
from cluster.specs.tokens import TokenizerSpec, TokensSpec
from cluster.specs.training import EvaluationSpec, ExportSpec, PretrainSpec

SPECS: dict[str, type[Spec]] = {
    cls.kind: cls
    for cls in (
        CorpusSpec,
        TokenizerSpec,
        TokensSpec,
        PretrainSpec,
        EvaluationSpec,
        ExportSpec,
        EndpointSpec,
        ScalingSpec,
    )
}

__all__ = [
    "SPECS",
    "CorpusSpec",
    "EndpointSpec",
    "EvaluationSpec",
    "ExportSpec",
    "PretrainSpec",
    "ScalingSpec",
    "Spec",
    "TokenizerSpec",
    "TokensSpec",
]
