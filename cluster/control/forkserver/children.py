"""Children of a worker that were forked as it was itself: with all that the fork server has imported, and no thread.

They are forked from the copy that server.py has kept, by the method `forkserver` of `multiprocessing`.
"""

from __future__ import annotations

import multiprocessing.forkserver
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any

from cluster.control.forkserver.client import CHILDREN


def can_fork() -> bool:
    """Whether this process is a worker that a copy was kept of."""
    server: Any = multiprocessing.forkserver._forkserver
    return CHILDREN in os.environ and server._forkserver_pid is not None


class Forked(ForkServerContext):
    """The context of `multiprocessing` that starts such children. They have the environment of this moment, as those
    of `spawn` have, not the copy's."""

    def Process(  # type: ignore[override]
        self,
        target: Callable[..., object],
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        daemon: bool | None = None,
    ) -> ForkServerProcess:
        asked = (dict(os.environ), target, tuple(args), dict(kwargs or {}))
        return ForkServerProcess(target=_run, name=name, args=asked, daemon=daemon)


def _run(
    environment: dict[str, str], target: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    target(*args, **kwargs)
