"""The Serve application of an endpoint: vLLM's for a whole model, transformers' for an adapter over its base."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.core.adapters import adapter_place
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact

if TYPE_CHECKING:
    from ray.serve import Application


def application(spec: EndpointSpec, name: str, artifact: Artifact, *, surge: bool = True) -> Application:
    """The application; `surge`: another one of this name answers until it is ready.

    Raises InputError for an artifact that is no Hugging Face model, or none that writes, SpecError for a bad field.
    """
    if adapter_place(artifact) is None:
        from serving.engine import application as over_vllm  # imports vLLM

        return over_vllm(spec, name, artifact, surge=surge)
    from serving.over_transformers import application as over_transformers

    return over_transformers(spec, name, artifact, surge=surge)
