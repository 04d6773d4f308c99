"""What stands around the Ray objects: namespace, shared volume, network rules, disruption budgets, the run's config.

The network is closed by default, by plain NetworkPolicies: KubeRay's own `networkPolicy` field is behind a feature
gate. They select by our labels, since KubeRay makes up the names of a job's and a service's clusters.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from cluster.core.errors import SpecError
from cluster.core.specs.access import is_postgres
from cluster.core.specs.infra import InfraSpec
from cluster.core.specs.kubernetes_names import passwords
from cluster.kubernetes.objects import RUN_FILE, Order
from cluster.kubernetes.pods import COMPONENT, HEAD_PORTS, METRICS_PORTS, PART_OF, Manifest
from cluster.kubernetes.text import block

COMPONENTS = ("cluster", "job", "endpoint")
HEAD = {"ray.io/node-type": "head"}
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}
ACCESS = {"trunkline.io/access": "true"}  # a namespace with this label may use the endpoint and read the metrics
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")  # addresses of no one else's network
POSTGRES_PORT = 5432
HTTPS_PORTS = (443, 6443)  # the API server is behind the one or the other, as the network plugin counts it


def namespace(infra: InfraSpec) -> Manifest:
    """The namespace, where pods may not be privileged."""
    manifest = _manifest(infra, "v1", "Namespace", infra.namespace, "common", {})
    for mode, level in (("enforce", "baseline"), ("warn", "restricted")):
        manifest["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] = level
    manifest.pop("spec")
    return manifest


def storage(infra: InfraSpec) -> list[Manifest]:
    """The volume of the artifact store, where it is no object store."""
    if infra.store:
        return []
    spec: Manifest = {
        "accessModes": [infra.storage_access],
        "resources": {"requests": {"storage": f"{infra.storage_gib}Gi"}},
    }
    if infra.storage_class:
        spec["storageClassName"] = infra.storage_class
    return [_manifest(infra, "v1", "PersistentVolumeClaim", f"{infra.name}-store", "common", spec)]


def disruption(infra: InfraSpec) -> list[Manifest]:
    """A node with a head on it is not drained. In whole numbers: budgets cannot count pods that KubeRay owns else."""
    return [
        _manifest(
            infra,
            "policy/v1",
            "PodDisruptionBudget",
            f"{infra.name}-{component}-head",
            component,
            {
                "minAvailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": _labels(infra, component) | HEAD},
            },
        )
        for component in COMPONENTS
    ]


def run_config(order: Order) -> Manifest:
    """The resolved specs of the RayJob's pipeline, as the file that it is given by `--config`.

    Raises SpecError where a password stands in one: whoever reads the namespace would read it.
    """
    for path in passwords(order.run):
        raise SpecError(
            f"{'.'.join(map(str, path))}: a URL with a password, which would stand in a ConfigMap",
            "Leave the password out, and give it to the pods by the secret of infra.store_secret.",
        )
    manifest = _manifest(order.infra, "v1", "ConfigMap", order.job_name, "job", {})
    manifest.pop("spec")
    return manifest | {"data": {RUN_FILE: block(order.run)}}


def network(order: Order) -> list[Manifest]:
    """Nothing in and nothing out, except what follows."""
    infra, everything = order.infra, {PART_OF: order.infra.name}
    serve_port = order.endpoint.port
    policies = [
        _policy(infra, "closed", everything, ingress=[], egress=[]),
        # Node-local DNS caches answer at addresses that no pod selector matches.
        _policy(infra, "names", everything, egress=[{"ports": _ports(53, protocols=("UDP", "TCP"))}]),
        _policy(
            infra,
            "operator",
            everything,
            ingress=[
                {
                    "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": OPERATOR}}],
                    "ports": _ports(HEAD_PORTS["dashboard"], serve_port),
                }
            ],
        ),
        _policy(
            infra,
            "clients",
            _labels(infra, "endpoint"),
            ingress=[
                {
                    "from": [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": ACCESS}}],
                    "ports": _ports(serve_port),
                }
            ],
        ),
        # `ctl` comes by way of the API server, whose address no policy can name; the dashboard asks for the token.
        _policy(
            infra,
            "commands",
            _labels(infra, "cluster") | HEAD,
            ingress=[
                {"ports": _ports(HEAD_PORTS["dashboard"])},
                {
                    "from": [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": ACCESS}}],
                    "ports": _ports(serve_port),
                },
            ],
        ),
        _policy(
            infra,
            "metrics",
            everything,
            ingress=[
                {"from": [{"namespaceSelector": {"matchLabels": ACCESS}}], "ports": _ports(*METRICS_PORTS.values())}
            ],
        ),
        _outside(infra, everything),
    ]
    for component in COMPONENTS:
        labels = _labels(infra, component)
        same = [{"podSelector": {"matchLabels": labels}}]
        policies.append(_policy(infra, component, labels, ingress=[{"from": same}], egress=[{"to": same}]))
    if infra.redis_address:
        port = int(infra.redis_address.rpartition(":")[2])
        policies.append(_policy(infra, "redis", _labels(infra, "endpoint") | HEAD, egress=[{"ports": _ports(port)}]))
    access = order.endpoint.access
    if access.keys and is_postgres(access.database):
        port = urlsplit(access.database).port or POSTGRES_PORT
        policies.append(_policy(infra, "keys", _labels(infra, "endpoint"), egress=[{"ports": _ports(port)}]))
    return policies


def _outside(infra: InfraSpec, everything: dict[str, str]) -> Manifest:
    """The autoscaler, in the head, talks to the API server; with an object store, every pod talks to that."""
    ports = list(HTTPS_PORTS)
    if infra.store_endpoint and (port := _port(infra.store_endpoint)) not in ports:
        ports.append(port)
    rule: Manifest = {"ports": _ports(*ports)}
    if infra.offline:
        rule["to"] = [{"ipBlock": {"cidr": cidr}} for cidr in PRIVATE]
    return _policy(infra, "outside", everything | ({} if infra.store else HEAD), egress=[rule])


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (80 if parts.scheme == "http" else 443)


def _ports(*ports: int, protocols: tuple[str, ...] = ("TCP",)) -> list[Manifest]:
    return [{"protocol": protocol, "port": port} for port in ports for protocol in protocols]


def _labels(infra: InfraSpec, component: str) -> dict[str, str]:
    return {PART_OF: infra.name, COMPONENT: component}


def _policy(infra: InfraSpec, name: str, labels: dict[str, str], **rules: list[Manifest]) -> Manifest:
    spec = {
        "podSelector": {"matchLabels": labels},
        "policyTypes": [direction.capitalize() for direction in rules],
        **{direction: rule for direction, rule in rules.items() if rule},
    }
    return _manifest(infra, "networking.k8s.io/v1", "NetworkPolicy", f"{infra.name}-{name}", "common", spec)


def _manifest(infra: InfraSpec, version: str, kind: str, name: str, component: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "labels": _labels(infra, component)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
