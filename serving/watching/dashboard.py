"""The Grafana dashboard of endpoints, as code: `ctl infra dashboard` writes its JSON, which Grafana imports.

Every figure comes from /metrics of a replica. A panel has a title, a unit, and expressions of Prometheus by their
legends.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

UID = "trunkline-endpoints"
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
METRIC = re.compile(r"\b(?:vllm:|trunkline_)\w+")
CHOSEN = 'endpoint=~"$endpoint"'
SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Panel:
    """One graph: expressions by their legends."""

    title: str
    unit: str
    drawn: dict[str, str]


def rate(metric: str, by: str = "", **labels: str) -> str:
    """A counter's growth in a second, summed `by` a label."""
    chosen = ",".join([CHOSEN, *(f'{name}=~"{value}"' for name, value in labels.items())])
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{chosen}}}[$__rate_interval]))"


def quantiles(metric: str) -> dict[str, str]:
    """Percentiles of a histogram, by legend."""
    return {f"p{share:.0%}".rstrip("%"): f"histogram_quantile({share}, {rate(f'{metric}_bucket', 'le')})"
            for share in SHARES}  # fmt: skip


def gauge(metric: str, over: str = "sum") -> str:
    return f"{over} ({metric}{{{CHOSEN}}})"


PANELS = (
    Panel("Time to first token", "s", quantiles("vllm:time_to_first_token_seconds")),
    Panel("Time per output token", "s", quantiles("vllm:request_time_per_output_token_seconds")),
    Panel("Whole answer", "s", quantiles("vllm:e2e_request_latency_seconds")),
    Panel(
        "Requests in the engine",
        "short",
        {"running": gauge("vllm:num_requests_running"), "waiting": gauge("vllm:num_requests_waiting")},
    ),
    Panel("Time in the queue", "s", quantiles("vllm:request_queue_time_seconds")),
    Panel(
        "Tokens a second",
        "short",
        {"prompts": rate("vllm:prompt_tokens_total"), "answers": rate("vllm:generation_tokens_total")},
    ),
    Panel(
        "Prefix cache: share of prompt tokens found",
        "percentunit",
        {"found": f"{rate('vllm:prefix_cache_hits_total')} / {rate('vllm:prefix_cache_queries_total')}"},
    ),
    Panel("KV cache in use, fullest replica", "percentunit", {"in use": gauge("vllm:kv_cache_usage_perc", "max")}),
    Panel("Preemptions a second", "short", {"preemptions": rate("vllm:num_preemptions_total")}),
    Panel("Requests a second, by status", "short", {"{{status}}": rate("trunkline_requests_total", "status")}),
    Panel("Refused with 429 a second, by key", "short",
          {"{{key}}": rate("trunkline_requests_total", "key", status="429")}),
    Panel("Failed (5xx) a second, by path", "short",
          {"{{path}}": rate("trunkline_requests_total", "path", status="5..")}),
    Panel("Requests a second, by key", "short", {"{{key}}": rate("trunkline_requests_total", "key", path="/v1/.*")}),
    Panel("Tokens a second, by key", "short", {"{{key}} {{kind}}": rate("trunkline_tokens_total", "key, kind")}),
    Panel("Time in the gateway", "s", quantiles("trunkline_gateway_seconds")),
    Panel("Request at the gateway", "s", quantiles("trunkline_request_seconds")),
    Panel("Requests being answered", "short", {"open": gauge("trunkline_requests_open")}),
    Panel("Replicas, by the artifact that answers", "short",
          {"{{artifact}}": f"count by (artifact) (trunkline_artifact{{{CHOSEN}}})"}),
)  # fmt: skip


def metrics() -> set[str]:
    """The names of all series that the dashboard asks for."""
    return {name for panel in PANELS for drawn in panel.drawn.values() for name in METRIC.findall(drawn)}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "uid": UID,
        "title": "Trunkline endpoints",
        "tags": ["trunkline"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
                {
                    "name": "endpoint",
                    "label": "Endpoint",
                    "type": "query",
                    "datasource": source,
                    "query": {"query": "label_values(trunkline_artifact, endpoint)", "refId": "endpoint"},
                    "refresh": 2,  # whenever the time range changes
                    "multi": True,
                    "includeAll": True,
                    "allValue": ".*",
                    "current": {"text": "All", "value": "$__all"},
                },
            ]
        },
        "panels": [_panel(number, panel, source) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    row, column = divmod(number * WIDTH, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": column, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": drawn, "legendFormat": legend, "datasource": source}
            for index, (legend, drawn) in enumerate(panel.drawn.items())
        ],
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"
