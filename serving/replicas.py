"""The replicas of an endpoint, as Serve and Ray tell of them: which version each serves, and how it is."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from cluster.core.errors import InputError, nearest
from serving.endpoints import MODEL_VARIABLE, deployment_of, text

SERVE_NAMESPACE = "serve"
ONGOING_SECONDS = 5.0


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One process of an endpoint. `ongoing` requests are None where it did not say."""

    id: str
    state: str
    model: str
    node_id: str
    node_ip: str
    pid: int | None
    started_at: float
    log_file: str
    actor_name: str
    ongoing: int | None = None


def replicas(details: dict[str, Any] | None, name: str, actors: list[dict[str, Any]]) -> list[Replica]:
    """The replicas of an endpoint in Serve's details, those that have ended lately last; `actors` as Ray's state API
    tells of them, in whose environments stands what they serve. Raises InputError where no endpoint is called so."""
    deployment = deployment_of(details, name)
    if deployment is None:
        names = list((details or {}).get("applications", {}))
        raise InputError(f"no endpoint is called {name!r}", nearest(name, names) if names else "None is running.")
    models = {actor["actor_id"]: _model(actor) for actor in actors}
    ended = deployment.get("recent_dead_replicas") or []
    return [_replica(each, models, "") for each in deployment["replicas"]] + [
        _replica(each, models, "ENDED") for each in ended
    ]


def _replica(told: dict[str, Any], models: dict[str, str], state: str) -> Replica:
    return Replica(
        id=told["replica_id"],
        state=state or text(told["state"]),
        model=models.get(told.get("actor_id") or "", ""),
        node_id=told.get("node_id") or "",
        node_ip=told.get("node_ip") or "",
        pid=told.get("pid"),
        started_at=told["start_time_s"],
        log_file=(told.get("log_file_path") or "").lstrip("/"),
        actor_name=told.get("actor_name") or "",
    )


def _model(actor: dict[str, Any]) -> str:
    """The artifact that an actor's environment names."""
    environment = json.loads(actor.get("serialized_runtime_env") or "{}")
    return str((environment.get("env_vars") or {}).get(MODEL_VARIABLE, ""))


def with_ongoing(found: list[Replica]) -> list[Replica]:
    """The replicas with how many requests each has. Asks them: the cluster must have been joined."""
    import ray

    asked: dict[Any, str] = {}
    for replica in found:
        if replica.state == "RUNNING":
            try:
                actor = ray.get_actor(replica.actor_name, namespace=SERVE_NAMESPACE)
            except ValueError:  # it has ended meanwhile
                continue
            asked[actor.get_num_ongoing_requests.remote()] = replica.id
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ONGOING_SECONDS) if asked else ([], [])
    counts: dict[str, int] = {}
    for ref in done:
        try:
            counts[asked[ref]] = ray.get(ref)
        except ray.exceptions.RayError:
            continue
    return [msgspec.structs.replace(replica, ongoing=counts.get(replica.id)) for replica in found]
