"""An endpoint as KubeRay deploys it: Ray Serve imports `serving.kuberay:app` and calls it with the endpoint's fields.

The model is looked up where the application is built, on the cluster, in the store of TRUNKLINE_STORE: an alias means
what it points to at that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.spec import convert
from cluster.core.storage.store import Store
from serving.application import application

if TYPE_CHECKING:
    from ray.serve import Application


VERSION = "manifest"  # KubeRay compares manifests itself


def app(fields: dict[str, Any]) -> Application:
    """Build the application. Raises SpecError for a wrong field, InputError for a model that is not in the store."""
    spec = convert(fields, EndpointSpec, "endpoint")
    artifact = Store().resolve(spec.model)
    return application(spec, spec.served_name or artifact.name, artifact, version=VERSION)
