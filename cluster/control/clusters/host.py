"""What runs on a host of an SSH context: it starts a head, joins one, or ends what it started. Asked by JSON on stdin.

The cluster of each context has a home of its own there: a user's own `ctl up` on that machine is another one. The token
comes by stdin and goes into a file of the owner's: neither a command line nor the environment of SSH shows it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

from cluster.control import local, nodes, runtime
from cluster.core.clusters import meant
from cluster.core.errors import NotReadyError, TrunklineError
from cluster.core.home import home

ANSWER = "trunkline-answer:"  # before the answer, whatever else the shell there writes

ATTEMPT = "attempt"


def main() -> None:
    asked = json.load(sys.stdin)
    os.environ["TRUNKLINE_HOME"] = str(home() / "contexts" / asked["context"])
    for variable in (meant.ADDRESS, meant.CONTEXT, "RAY_AUTH_TOKEN"):
        os.environ.pop(variable, None)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(home() / "token")
    os.environ["RAY_AUTH_MODE"] = "token"
    try:
        answer = OPERATIONS[asked["do"]](asked)
    except TrunklineError as error:
        answer = {"error": [error.message, error.remedy]}
    print(ANSWER + json.dumps(answer), flush=True)


def _head(asked: dict[str, Any]) -> dict[str, Any]:
    head = nodes.running_head()
    if head is None:
        _prepare(asked)
        head = local.start_head(num_cpus=asked["num_cpus"], port=asked["port"], dashboard_port=asked["dashboard_port"])
        return {"address": head.address, "started": True}
    if runtime.token_path().read_text() != asked["token"]:
        raise NotReadyError("a cluster of this context runs there with another token", "Use that one, or end it there.")
    if not runtime.answers(head.address):
        raise nodes.dead(head)
    return {"address": head.address, "started": False}


def _join(asked: dict[str, Any]) -> dict[str, Any]:
    address = asked["address"]
    local.clean_up()
    if any(node.address == address for node in nodes.nodes()):
        return {"address": address, "started": False}
    _prepare(asked)
    local.join(address, num_cpus=asked["num_cpus"])
    return {"address": address, "started": True}


def _down(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("attempt", _attempt()) != _attempt():
        return {"nodes": 0, "processes": 0}  # that attempt started nothing here
    found = nodes.nodes()
    count = sum(nodes.stop(node) for node in reversed(found))
    if home().exists():
        shutil.rmtree(home())
    return {"nodes": len(found), "processes": count}


def _prepare(asked: dict[str, Any]) -> None:
    """Write down who starts something here, before it is started, and the token."""
    home().mkdir(parents=True, exist_ok=True, mode=0o700)
    (home() / ATTEMPT).write_text(asked["attempt"])
    place = runtime.token_path()
    place.unlink(missing_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(asked["token"])


def _attempt() -> str:
    """The `ctl up` that started what is here; empty where nothing is."""
    return (home() / ATTEMPT).read_text() if (home() / ATTEMPT).exists() else ""


OPERATIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"head": _head, "join": _join, "down": _down}
