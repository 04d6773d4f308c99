"""What runs: endpoints as Ray Serve knows them. There is no state of our own that could disagree with it."""

from __future__ import annotations

from typing import Any

import msgspec

MODEL_VARIABLE = "TRUNKLINE_MODEL"  # in the replica's environment, and so in Serve's status: what an endpoint serves
ORIGIN_VARIABLE = "TRUNKLINE_ENDPOINT"  # there, too: the spec and the artifact, to serve it again
STARTING = ("NOT_STARTED", "DEPLOYING")
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
                replicas = sum(_text(replica["state"]) == "RUNNING" for replica in deployment["replicas"])
        if model:
            scheme = "https" if options.get("ssl_certfile") else "http"
            url = base_url(options.get("host"), options.get("port"), application["route_prefix"], scheme)
            found.append(
                Endpoint(
                    name=name,
                    base_url=url,
                    model=model,
                    status=_text(application["status"]),
                    replicas=replicas,
                    message="\n".join(filter(None, messages)),
                )
            )
    return found


def origin(details: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """What an endpoint was made of (see engine.py), or None where there is no such endpoint."""
    application = (details or {}).get("applications", {}).get(name) or {"deployments": {}}
    for deployment in application["deployments"].values():
        if text := _environment(deployment).get(ORIGIN_VARIABLE):
            return dict(msgspec.json.decode(text))
    return None


def _text(value: Any) -> str:
    """Serve's client gives enumerations where its REST API gives their values."""
    return str(getattr(value, "value", value))


def _environment(deployment: dict[str, Any]) -> dict[str, str]:
    options = (deployment.get("deployment_config") or {}).get("ray_actor_options") or {}
    return dict((options.get("runtime_env") or {}).get("env_vars") or {})


def base_url(host: str | None, port: int | None, route: str | None, scheme: str = "http") -> str:
    """Where clients of the OpenAI API go."""
    reachable = "127.0.0.1" if host in (None, "", "0.0.0.0") else host
    return f"{scheme}://{reachable}:{port}{(route or '/').rstrip('/')}/v1"
