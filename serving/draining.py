"""A replica that goes finishes what it has begun, up to a time; what is left then ends with an error.

Serve waits for a replica's requests before it ends its process, and kills it when that takes too long. It tells
applications nothing of this, so that long answers would be cut: here the replica hears when Serve begins.
"""

from __future__ import annotations

import asyncio
from typing import Any

from serving.answers import Answers

GONE = "this replica goes and its answer took too long to wait for: ask again"


def end_when_drained(answers: Answers, seconds: float) -> None:
    """End the answers that are left so long after Serve has asked this process's replica to go."""
    from ray.serve._private.replica import Replica  # nothing public tells

    loop = asyncio.get_running_loop()
    shut_down = Replica._perform_graceful_shutdown

    async def drained() -> None:
        await asyncio.sleep(seconds)
        await answers.end(GONE)

    async def told(replica: Replica) -> None:
        asyncio.run_coroutine_threadsafe(drained(), loop)  # the application's loop is not Serve's
        await shut_down(replica)

    Replica._perform_graceful_shutdown = told


def refuse_requests() -> None:
    """Have Serve's proxies and handles send this process's replica no more requests: those that come go to another."""
    from ray.serve._private.replica import Replica

    def refused(_: Replica, metadata: Any) -> bool:
        return not metadata.is_direct_ingress  # which no proxy sends to another: serving/answers.py refuses it

    Replica._is_replica_quiescing = refused
