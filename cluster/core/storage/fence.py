"""Fences: a process that has lost its lease, and does not know it yet, writes no more.

It may have been stopped, or cut off, while another took its lease over. So whoever writes under a lease looks, before
it writes, whether its number is still in force. A look is good for a twelfth of the lease's time to live: whoever was
stopped long enough to lose it has been stopped for longer than that.
"""

from __future__ import annotations

import time
from typing import Any

from cluster.core.errors import JobError
from cluster.core.storage.holder import TRIES
from cluster.core.storage.location import Location

# Goes on while a machine sleeps, where there is such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def numbers(place: Location) -> list[int]:
    """The numbers of a lease's files, the one in force last."""
    return sorted(int(name[:-5]) for name in place.names() if name[:-5].isdigit())


class Fence:
    """The number of a lease, as it goes with everything that is written under it. Picklable: workers write, too."""

    def __init__(self, place: Location, number: int, ttl_seconds: float) -> None:
        self.place, self.number = place, number
        self._ttl_seconds = ttl_seconds
        self._looked_at = float("-inf")

    def __reduce__(self) -> tuple[Any, ...]:
        return Fence, (self.place, self.number, self._ttl_seconds)  # another machine has a clock of its own

    def check(self) -> None:
        """Raise JobError where a higher number has been won since."""
        now = time.clock_gettime(_CLOCK)
        if now - self._looked_at < self._ttl_seconds / TRIES:
            return
        if numbers(self.place)[-1:] != [self.number]:
            raise taken_over(self.place)
        self._looked_at = now


class FencedLocation(Location):
    """A place that is written to under a lease."""

    def __init__(self, url: str, fence: Fence) -> None:
        super().__init__(url)
        self._fence = fence

    def __truediv__(self, name: str) -> FencedLocation:
        return FencedLocation(f"{self.url}/{name}", self._fence)

    def _about_to_write(self) -> None:
        self._fence.check()


def taken_over(place: Location) -> JobError:
    """The error of an attempt that is stale."""
    return JobError(f"the lease {place.url} was taken over by another run", "Run the same command again.")
