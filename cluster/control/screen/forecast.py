"""How long the rest of a run takes, by how long its stages took elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Forecast:
    """Stages that are still to be built, with what each usually takes in seconds; those that are done tell how much
    slower or faster this machine is. A stage of which nothing is known counts for nothing."""

    def __init__(self, keys: Iterable[str], usual_seconds: Mapping[str, float]) -> None:
        self._left = {key: usual_seconds[key] for key in keys if key in usual_seconds}
        self._usual_seconds = self._taken_seconds = 0.0
        self._done: dict[str, float] = {}

    def progressed(self, key: str, share: float) -> None:
        """So much of a stage is done, from 0 to 1."""
        self._done[key] = min(1.0, max(0.0, share))

    def finished(self, key: str, seconds: float) -> None:
        """A stage was built in so many seconds."""
        self._usual_seconds += self._left.pop(key, 0.0)
        self._taken_seconds += seconds

    def left_seconds(self) -> float | None:
        """Seconds until the last stage is done; None where nothing is known of those that are left."""
        if not self._left:
            return None
        pace = self._taken_seconds / self._usual_seconds if self._usual_seconds else 1.0
        return pace * sum(seconds * (1.0 - self._done.get(key, 0.0)) for key, seconds in self._left.items())

    def told(self) -> str:
        """The same for people, to the minute; empty where it is not known."""
        seconds = self.left_seconds()
        if seconds is None:
            return ""
        minutes = round(seconds / 60)
        return f"about {minutes} min left" if minutes else "less than a minute left"
