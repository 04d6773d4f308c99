"""Kubernetes' own kinds against its own strict schemas, which the package kubernetes-validate carries."""

from __future__ import annotations

from typing import Any

from cluster.core.errors import NotReadyError, nearest
from cluster.kubernetes.findings import Problem, Problems

KUBERNETES = "1.34"  # the oldest that was supported when KubeRay 1.7 came out


def check(body: dict[str, Any]) -> Problems:
    """The first thing that Kubernetes would refuse; nothing for a kind that is not its own.

    Raises NotReadyError where the package is not installed.
    """
    try:
        import kubernetes_validate
    except ImportError:
        raise NotReadyError(
            "the schemas of Kubernetes' own kinds are not installed", "Install them: `pip install kubernetes-validate`."
        ) from None
    try:
        kubernetes_validate.validate(body, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for name in error.instance.keys() - set(known):
                yield Problem((*path, str(name)), "unknown field", nearest(str(name), known))
        else:
            yield Problem(path, error.message, "See `kubectl explain`.")
    except kubernetes_validate.SchemaNotFoundError:
        return
