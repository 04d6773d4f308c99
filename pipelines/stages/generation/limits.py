"""What an endpoint may be asked in a minute, and what the answers may cost in all."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """Spreads amounts evenly over time, at most `per_minute` of them; 0 does not limit."""

    def __init__(self, per_minute: float) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._free_at = 0.0

    async def take(self, amount: float) -> None:
        """Wait until this much may be asked for."""
        now = time.monotonic()
        start = max(now, self._free_at)
        self._free_at = start + amount * self._seconds_each
        if start > now:
            await asyncio.sleep(start - now)

    def correct(self, amount: float) -> None:
        """So much more than was taken was used; less, where it is negative."""
        self._free_at += amount * self._seconds_each


class Budget:
    """Money that is spent by many at once. `limit` 0 does not limit.

    What a request may cost at most is set aside before it is sent, so that all together never cost more than the limit.
    """

    def __init__(self, limit: float, spent: float) -> None:
        self._limit = limit
        self.spent = spent
        self._aside = 0.0
        self._held = 0
        self._freed = asyncio.Condition()

    async def hold(self, at_most: float) -> bool:
        """Set an amount aside, once there is as much; False where there will not be."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._fits(at_most) or not self._held)
            if not self._fits(at_most):
                return False
            self._aside += at_most
            self._held += 1
            return True

    async def settle(self, at_most: float, cost: float) -> None:
        """Free what was set aside, of which `cost` was spent."""
        async with self._freed:
            self._aside -= at_most
            self._held -= 1
            self.spent += cost
            self._freed.notify_all()

    def _fits(self, amount: float) -> bool:
        return not self._limit or self.spent + self._aside + amount <= self._limit
