"""What Prometheus' operator is told: which ports of our pods to scrape, and when to call somebody.

Its kinds are no part of Kubernetes or KubeRay, so this is rendered where `infra.monitoring` asks for it. Alerts are
few, each about something that does not mend itself.
"""

from __future__ import annotations

from cluster.core.specs.infra import InfraSpec
from cluster.kubernetes.objects import Order
from cluster.kubernetes.pods import COMPONENT, METRICS_PORTS, PART_OF, Manifest

VERSION = "monitoring.coreos.com"
METRICS_KEY = "key"  # of the secret with an endpoint's key, made by `ctl serve keys create prometheus --scope metrics`


def monitoring(order: Order) -> list[Manifest]:
    """Two PodMonitors and the alerts; nothing where it is not asked for."""
    infra = order.infra
    if not infra.monitoring:
        return []
    ray = {"podMetricsEndpoints": [{"port": port} for port in METRICS_PORTS]}
    serve: Manifest = {"port": "serve", "path": "/metrics"}
    if order.endpoint.access.keys:
        secret = {"name": f"{infra.name}-metrics-key", "key": METRICS_KEY}
        serve["authorization"] = {"type": "Bearer", "credentials": secret}
    pods = {"matchLabels": {PART_OF: infra.name}}
    replicas = {"matchLabels": {PART_OF: infra.name, COMPONENT: "endpoint", "ray.io/node-type": "worker"}}
    return [
        _manifest(infra, "v1", "PodMonitor", "ray", "common", {"selector": pods, **ray}),
        _manifest(
            infra, "v1", "PodMonitor", "answers", "endpoint", {"selector": replicas, "podMetricsEndpoints": [serve]}
        ),
        _manifest(infra, "v1", "PrometheusRule", "alerts", "common", {"groups": [_group(infra)]}),
    ]


def _group(infra: InfraSpec) -> Manifest:
    here = f'namespace="{infra.namespace}"'
    ours = f'{here},pod=~"{infra.name}-.*"'
    failed = f'sum(rate(trunkline_requests_total{{{here},status=~"5.."}}[5m]))'
    refused = f'sum(rate(trunkline_requests_total{{{here},status="429"}}[5m]))'
    asked = f"sum(rate(trunkline_requests_total{{{here}}}[5m]))"
    return {
        "name": infra.name,
        "rules": [
            _alert("EndpointFails", f"{failed} / {asked} > 0.05", "5m", "critical", "More than 5% of requests fail."),
            _alert("EndpointRefuses", f"{refused} / {asked} > 0.2", "15m", "warning",
                   "More than a fifth of requests are refused: raise endpoint.max_replicas."),
            _alert("PodWaits", f'sum(kube_pod_status_phase{{{ours},phase="Pending"}}) > 0', "30m", "warning",
                   "A pod has waited half an hour: `kubectl describe pod` says for what."),
            _alert("PodFailsAgainAndAgain", f"increase(kube_pod_container_status_restarts_total{{{ours}}}[30m]) > 3",
                   "0m", "warning", "A container was started more than three times in half an hour."),
            _alert("StoreFills",
                   f'kubelet_volume_stats_available_bytes{{{here},persistentvolumeclaim="{infra.name}-store"}}'
                   f" / kubelet_volume_stats_capacity_bytes < 0.1",
                   "15m", "warning", "The shared volume is nine tenths full: `ctl artifacts gc`."),
        ],
    }  # fmt: skip


def _alert(name: str, expression: str, lasting: str, severity: str, summary: str) -> Manifest:
    alert = f"Trunkline{name}"
    labels, annotations = {"severity": severity}, {"summary": summary}
    return {"alert": alert, "expr": expression, "for": lasting, "labels": labels, "annotations": annotations}


def _manifest(infra: InfraSpec, version: str, kind: str, name: str, component: str, spec: Manifest) -> Manifest:
    labels = {PART_OF: infra.name, COMPONENT: component}
    metadata = {"name": f"{infra.name}-{name}", "labels": labels}
    return {"apiVersion": f"{VERSION}/{version}", "kind": kind, "metadata": metadata, "spec": spec}
