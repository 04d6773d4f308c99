"""What is looked at before an endpoint is started, which would else fail late or wait in silence."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ray

from cluster.control import growth, ports
from cluster.core.errors import InputError, NotReadyError, SpecError
from cluster.core.pooling import Pooling
from cluster.core.specs.access import Access, is_postgres
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from serving.endpoints import origin
from serving.keys.administration import Administration
from serving.keys.key import ANSWERS
from serving.named import Named
from serving.proxy import LOOPBACK
from serving.tasks import CONVERSES, SCORES


def check_port(port: int) -> None:
    if ports.taken(port):
        raise NotReadyError(f"port {port} is in use", "Choose another with `--port`, or stop what holds it.")


def check_capacity(spec: EndpointSpec) -> None:
    """Raise NotReadyError where the cluster could never place a replica: it would wait in silence."""
    total = growth.grown(ray.cluster_resources())
    for resource, wanted in (("CPU", spec.cpus), ("GPU", spec.gpus)):
        if wanted > total.get(resource, 0):
            raise NotReadyError(
                f"a replica wants {wanted:g} {resource}s, the cluster has {total.get(resource, 0):g}",
                f"Lower endpoint.{resource.lower()}s, or add nodes.",
            )


def check_access(spec: EndpointSpec, name: str, notice: Callable[[str], None]) -> None:
    """Raise NotReadyError where the keys cannot be read by all replicas; say where nobody can use the endpoint, or
    everybody."""
    access = spec.access
    if not access.keys:
        if spec.host not in LOOPBACK:
            notice(f"whoever reaches {spec.host}:{spec.port} may use it: endpoint.access.keys=true asks for keys")
        return
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 and not is_postgres(access.database):
        raise NotReadyError(
            f"endpoint.access.database: a file is one machine's, and this cluster has {nodes}",
            "Give postgresql://USER@HOST/NAME.",
        )
    keys = [key for key in Administration(access.database).list_keys() if not key.ended(time.time())]
    if not any(ANSWERS in key.scopes and (not key.endpoints or name in key.endpoints) for key in keys):
        notice(f"no key is for endpoint {name!r} yet: make one with `ctl serve keys create`")


def check_pooling(spec: EndpointSpec, artifact: Artifact, pooling: Pooling) -> None:
    """Raise SpecError for what a model that does not write cannot have."""
    for field, wanted in (("plugins.allowed", spec.plugins.allowed), ("feedback.path", spec.feedback.path),
                          ("max_adapters", spec.max_adapters), ("scorer", spec.scorer)):  # fmt: skip
        if wanted:
            raise SpecError(
                f"endpoint.{field}: {artifact.record.ref} {pooling.told}, and does not write", "Leave it out."
            )


def check_scorer(spec: EndpointSpec, models: Iterable[Named], details: dict[str, Any] | None) -> None:
    """Raise InputError where what is to score the page's answers is not there, or scores no conversations. `details`
    are Serve's."""
    if not spec.scorer:
        return
    named = {each.name: each.tasks for each in models}
    found = named.get(spec.scorer) or (origin(details, spec.scorer) or {}).get("tasks")
    if not found:
        raise InputError(
            f"endpoint.scorer: {spec.scorer!r} is neither a name of endpoint.models nor an endpoint that runs",
            f"Bring it up first: `ctl serve up REWARD --name {spec.scorer}`.",
        )
    if not {SCORES, CONVERSES} <= set(found):
        told = f"endpoint.scorer: {spec.scorer!r} {' and '.join(found)}, and does not score answers"
        raise InputError(told, "Give a reward model.")


def certificate(access: Access) -> dict[str, str]:
    """Serve's options for HTTPS. Raises InputError for files that are no certificate and its key."""
    if not access.tls_certificate:
        return {}
    files = {name: str(Path(file).expanduser().absolute()) for name, file in
             (("certfile", access.tls_certificate), ("keyfile", access.tls_key))}  # fmt: skip
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(**files)
    except (OSError, ssl.SSLError) as error:
        told = f"endpoint.access.tls_certificate and tls_key: {error}"
        raise InputError(told, "Give a PEM file of each.") from None
    return {f"ssl_{name}": file for name, file in files.items()}
