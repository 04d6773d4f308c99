"""What runs: endpoints as Ray Serve knows them. There is no state of our own that could disagree with it."""

from __future__ import annotations

from typing import Any

import msgspec

MODEL_VARIABLE = "TRUNKLINE_MODEL"  # in the replica's environment, and so in Serve's status: what an endpoint serves
ORIGIN_VARIABLE = "TRUNKLINE_ENDPOINT"  # there, too: the spec and the artifact, to serve it again
STARTING = ("NOT_STARTED", "DEPLOYING")
CANARY = ".canary"  # behind the name of its endpoint: the application of another version, with no route of its own
PROXY_VARIABLES = ("RAY_SERVE_", "TRUNKLINE_HAPROXY")  # beginnings of the names
TRACES_VARIABLES = "OTEL_"  # the beginning of their names
FAILED = ("DEPLOY_FAILED", "UNHEALTHY")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A model behind the OpenAI API. `name` is what clients give as `model`."""

    name: str
    base_url: str
    model: str
    status: str
    replicas: int
    message: str = ""


def from_details(details: dict[str, Any] | None) -> list[Endpoint]:
    """Endpoints in Serve's details: of its client, or of GET /api/serve/applications/."""
    if not details:
        return []
    options = details.get("http_options") or {}
    found = []
    for name, application in sorted(details.get("applications", {}).items()):
        model, replicas, messages = "", 0, [application["message"]]
        for deployment in application["deployments"].values():
            messages.append(deployment["message"])
            environment = _environment(deployment)
            if MODEL_VARIABLE in environment:
                model = environment[MODEL_VARIABLE]
                replicas = sum(text(replica["state"]) == "RUNNING" for replica in deployment["replicas"])
        if model:
            scheme = "https" if options.get("ssl_certfile") else "http"
            routed = application["route_prefix"] is not None
            url = (
                base_url(options.get("host"), options.get("port"), application["route_prefix"], scheme)
                if routed
                else ""
            )
            found.append(
                Endpoint(
                    name=name,
                    base_url=url,
                    model=model,
                    status=text(application["status"]),
                    replicas=replicas,
                    message="\n".join(filter(None, messages)),
                )
            )
    return found


def origin(details: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """What an endpoint was made of (see application.py), or None where there is no such endpoint.

    Its numbers of replicas are Serve's: they change without a new version.
    """
    deployment = deployment_of(details, name)
    if deployment is None or not (told := _environment(deployment).get(ORIGIN_VARIABLE)):
        return None
    absent: dict[str, Any] = {"before": None, "version": "", "tasks": []}  # of an endpoint of an older project
    found = {**absent, **msgspec.json.decode(told)}
    return found | {"spec": found["spec"] | _replicas(deployment.get("deployment_config") or {})}


def deployment_of(details: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """The deployment of an endpoint that answers, in Serve's details; None where no endpoint is called so."""
    application = (details or {}).get("applications", {}).get(name) or {"deployments": {}}
    for deployment in application["deployments"].values():
        if MODEL_VARIABLE in _environment(deployment):
            return dict(deployment)
    return None


def proxy_environment(details: dict[str, Any] | None) -> dict[str, str]:
    """The variables of the proxy (proxy.py) that stands before the endpoints, which all replicas have alike."""
    for name in (details or {}).get("applications", {}):
        if deployment := deployment_of(details, name):
            environment = _environment(deployment)
            return {key: value for key, value in environment.items() if key.startswith(PROXY_VARIABLES)}
    return {}


def environment_of(details: dict[str, Any] | None, name: str) -> dict[str, str]:
    """The variables of the proxy, and those that say where the traces of an endpoint go (tracing.py)."""
    environment = _environment(deployment_of(details, name) or {})
    traces = {key: value for key, value in environment.items() if key.startswith(TRACES_VARIABLES)}
    return proxy_environment(details) | traces


def share_of(details: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """The share of its requests that an endpoint passes on (split.py)."""
    config = (deployment_of(details, name) or {}).get("deployment_config") or {}
    found: dict[str, Any] | None = (config.get("user_config") or {}).get("share")
    return found


def models_of(details: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The models that an endpoint has beside its own (named.py), by Serve's account."""
    config = (deployment_of(details, name) or {}).get("deployment_config") or {}
    return list((config.get("user_config") or {}).get("models") or [])


def _replicas(config: dict[str, Any]) -> dict[str, int]:
    """The numbers of replicas in a deployment's configuration, as fields of the spec."""
    scale = config.get("autoscaling_config")
    if scale:
        return {"min_replicas": scale["min_replicas"], "max_replicas": scale["max_replicas"]}
    number = config.get("num_replicas")
    return {"min_replicas": number, "max_replicas": number} if isinstance(number, int) else {}


def drain_seconds(details: dict[str, Any] | None, name: str) -> float:
    """How long an endpoint's replicas may take to go."""
    config = (deployment_of(details, name) or {}).get("deployment_config") or {}
    return float(config.get("graceful_shutdown_timeout_s") or 0)


def text(value: Any) -> str:
    """Serve's client gives enumerations where its REST API gives their values."""
    return str(getattr(value, "value", value))


def _environment(deployment: dict[str, Any]) -> dict[str, str]:
    options = (deployment.get("deployment_config") or {}).get("ray_actor_options") or {}
    return dict((options.get("runtime_env") or {}).get("env_vars") or {})


def base_url(host: str | None, port: int | None, route: str | None, scheme: str = "http") -> str:
    """Where clients of the OpenAI API go."""
    reachable = "127.0.0.1" if host in (None, "", "0.0.0.0") else host
    return f"{scheme}://{reachable}:{port}{(route or '/').rstrip('/')}/v1"
