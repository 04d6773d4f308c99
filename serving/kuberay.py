"""An endpoint as KubeRay deploys it: Ray Serve imports `serving.kuberay:app` and calls it with the endpoint's fields.

The model is looked up where the application is built, on the cluster, in the store of TRUNKLINE_STORE: an alias means
what it points to at that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.core.errors import InputError
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.spec import convert
from cluster.core.storage.store import Store
from serving import tracing
from serving.application import application
from serving.beside import resolved
from serving.named import APPLICATION

if TYPE_CHECKING:
    from ray.serve import Application


VERSION = "manifest"  # KubeRay compares manifests itself


def app(fields: dict[str, Any]) -> Application:
    """Build the application. Raises SpecError for a wrong field, InputError for a model that is not in the store."""
    spec = convert(fields, EndpointSpec, "endpoint")
    store = Store()
    artifact = store.resolve(spec.model)
    name = spec.served_name or artifact.name
    models = resolved(spec.models, spec, name, artifact, store)
    if engines := [each.name for each in models if each.place == APPLICATION]:
        raise InputError(
            f"endpoint.models: {', '.join(engines)} would need an engine of its own, which a manifest does not start",
            "Give it a manifest of its own; aliases and adapters (endpoint.max_adapters) stay.",
        )
    return application(spec, name, artifact, version=VERSION, models=models, proxy=tracing.environment())
