"""The other replicas of an endpoint, as a replica asks them to compute what its engine cannot any more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from ray import serve


class Peers:
    """The replicas of the deployment that this process's replica is of. `fingerprint`: the model that it serves, for
    while an endpoint is rolled not all serve the same."""

    def __init__(self, fingerprint: str) -> None:
        context = serve.get_replica_context()
        self._own, self._fingerprint = context.replica_id, fingerprint
        handle = serve.get_deployment_handle(context.deployment, context.app_name)
        self._handle = handle.options(method_name="compute", stream=True)  # from now on it knows of replicas

    def __bool__(self) -> bool:
        """Whether there is any other."""
        handle: Any = self._handle
        router = handle._router._asyncio_router._request_router  # nothing public tells
        return router is not None and any(replica_id != self._own for replica_id in router.curr_replicas)

    async def compute(self, request: Any) -> AsyncIterator[Any]:
        """The outputs that another gives for a request of vLLM's to its engine; none where it does not take it."""
        answer = self._handle.remote(self._fingerprint, request)
        try:
            async for output in answer:
                yield output
        finally:
            answer.cancel()
