"""Workers of Ray that import much are forked from a process that has imported it: a second instead of ten.

`client.py` is what Ray starts in the place of Python, `server.py` the process that it asks. There is a server for every
job and environment, on the node, as long as it is asked for something; it ends with the node's raylet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cluster.control.forkserver.client import CHILDREN, PRELOAD
from cluster.core.clusters.meant import meant

SWITCH = "TRUNKLINE_FORK_SERVER"  # 0: every worker imports by itself; 1: on clusters of other machines, too
CLIENT = Path(__file__).with_name("client.py")


def runtime_env(
    variables: Mapping[str, str], modules: Iterable[str] = (), *, forks_children: bool = False
) -> dict[str, Any]:
    """Ray's runtime environment of workers with these environment variables, which want `modules`.

    Without modules, or on a cluster that may be of other machines, Ray starts them as it always does. A worker that
    `forks_children` has children.py's context for its own.
    """
    wanted = ",".join(modules)
    if not wanted or not _enabled():
        return {"env_vars": dict(variables)}
    told = {PRELOAD: wanted} | ({CHILDREN: "1"} if forks_children else {})
    return {"env_vars": {**variables, **told}, "py_executable": _executable()}


def _enabled() -> bool:
    if switch := os.environ.get(SWITCH):
        return switch != "0"
    return meant().on_this_machine


def _executable() -> str:
    """What a shell executes: the client; on a node that joined and has neither it nor this Python, its own."""
    python = sys.executable
    tried = f'[ -x "{python}" ] && [ -f "{CLIENT}" ] && exec "{python}" -I -S "{CLIENT}" "$@"'
    return f"sh -c '{tried}; exec python \"$@\"' sh"
