"""What a cluster has and does: nodes, resources, jobs and endpoints, in one plain mapping."""

from __future__ import annotations

from typing import Any

from cluster.control import dashboard

SHOWN = ("CPU", "GPU")


def status() -> dict[str, Any]:
    """`dashboard`, `ray_version`, `nodes`, `resources` (name to total and used), `jobs`, `endpoints`.

    Raises NotReadyError where no cluster answers.
    """
    from cluster.control import jobs

    url = dashboard.dashboard_url()
    version = dashboard.request("GET", url, "/api/version")
    nodes = _nodes(url)
    return {
        "dashboard": url,
        "ray_version": version["ray_version"],
        "nodes": nodes,
        "resources": _sums([node["resources"] for node in nodes if node["alive"]]),
        "jobs": [job.as_dict() for job in jobs.on_cluster()],
        "endpoints": _endpoints(url),
    }


def _nodes(url: str) -> list[dict[str, Any]]:
    listed = dashboard.request("GET", url, "/api/v0/nodes?detail=false")["data"]["result"]["result"]
    report = dashboard.request("GET", url, "/api/cluster_status?format=0")["data"]["clusterStatus"] or {}
    usage = (report.get("loadMetricsReport") or {}).get("usageByNode") or {}
    found = []
    for node in listed:
        used = usage.get(node["node_id"], {})
        resources = {
            name: {"total": total, "used": used.get(name, [0.0])[0]}
            for name, total in node["resources_total"].items()
            if name in SHOWN
        }
        found.append(
            {
                "id": node["node_id"],
                "address": node["node_ip"],
                "head": node["is_head_node"],
                "alive": node["state"] == "ALIVE",
                "resources": resources,
            }
        )
    return sorted(found, key=lambda node: (not node["alive"], not node["head"], node["id"]))


def _sums(parts: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    names = sorted({name for part in parts for name in part})
    return {
        name: {key: sum(part[name][key] for part in parts if name in part) for key in ("total", "used")}
        for name in names
    }


def _endpoints(url: str) -> list[dict[str, Any]]:
    serve = dashboard.request("GET", url, "/api/serve/applications/") or {}
    return [
        {"name": name, "status": application["status"], "route": application.get("route_prefix")}
        for name, application in sorted((serve.get("applications") or {}).items())
    ]
