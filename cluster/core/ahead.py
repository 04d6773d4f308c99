"""Building ahead: a step in a thread of its own, while the next one already reads its draft."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.draft import Draft

LOOK_SECONDS = 0.1


class Ahead:
    """A build that has begun, and its draft. The two steps share nothing but the store."""

    def __init__(self, draft: Draft, work: Callable[[], Artifact]) -> None:
        """Returns once the draft has a builder, so that a reader does not take it for abandoned."""
        self.draft = draft
        self._outcome: concurrent.futures.Future[Artifact] = concurrent.futures.Future()
        # A daemon: an interrupted run must not wait for it. What it leaves is what a killed run leaves.
        threading.Thread(target=self._run, args=(work,), daemon=True, name="ahead").start()
        while not draft.has_builder() and draft.finished() is None:
            if concurrent.futures.wait([self._outcome], timeout=LOOK_SECONDS).done:
                break

    def _run(self, work: Callable[[], Artifact]) -> None:
        try:
            self._outcome.set_result(work())
        except BaseException as error:
            self._outcome.set_exception(error)

    def result(self) -> Artifact:
        """The finished artifact, or what its build raised."""
        return self._outcome.result()

    def raise_own(self) -> None:
        """Raise what the build raised, if it has failed: whoever reads its draft fails, too, and knows less."""
        if self._outcome.done():
            self._outcome.result()
