"""When a schedule is due: every so many seconds, or as cron has it, in a time zone. All moments are in UTC.

Where the clock is set forward, what is due in the hour that is missing is due when it would have ended; where it is set
back, once (as Debian's cron does).
"""

from __future__ import annotations

import datetime
import math
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cluster.control.durable.shapes import Schedule
from cluster.core.errors import UsageError
from cluster.core.specs.kubernetes_names import is_schedule

WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
UTC = datetime.UTC
SHORTEST_SECONDS = 1.0  # a run is called by the second at which it was due


def check(schedule: Schedule, now: datetime.datetime) -> None:
    """Raise UsageError for what is no schedule, or is never due."""
    if not schedule.cron:
        if schedule.every_seconds < SHORTEST_SECONDS:
            raise UsageError(f"--every {schedule.every_seconds:g}: too often", f"Give {SHORTEST_SECONDS:g}s at least.")
        return
    if not is_schedule(schedule.cron):
        raise UsageError(f"--cron {schedule.cron!r}: not a schedule of cron", "Write five fields, such as '0 3 * * *'.")
    try:
        ZoneInfo(schedule.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"--time-zone {schedule.time_zone}: this machine knows no such zone", "Write Europe/Paris, say."
        ) from None
    if following(schedule, now, now) is None:
        raise UsageError(f"--cron {schedule.cron!r}: there is no such day", "Correct the day or the month.")


def following(schedule: Schedule, begun: datetime.datetime, now: datetime.datetime) -> datetime.datetime | None:
    """The first time after `now`; None where there is none. `begun`: when it was submitted."""
    if schedule.cron:
        return _cron(schedule, now, reverse=False)
    past = math.floor((now - begun).total_seconds() / schedule.every_seconds)
    return begun + datetime.timedelta(seconds=schedule.every_seconds * max(0, past + 1))


def latest(schedule: Schedule, begun: datetime.datetime, now: datetime.datetime) -> datetime.datetime | None:
    """The last time that has come by `now`, from `begun` on; None where none has."""
    if schedule.cron:
        found = _cron(schedule, now + datetime.timedelta(seconds=1), reverse=True)
        return found if found and found > begun else None
    past = math.floor((now - begun).total_seconds() / schedule.every_seconds)
    return begun + datetime.timedelta(seconds=schedule.every_seconds * past) if past >= 0 else None


def _cron(schedule: Schedule, moment: datetime.datetime, *, reverse: bool) -> datetime.datetime | None:
    """The nearest time that cron has after a moment, or before it."""
    from cronsim import CronSim, CronSimError

    fields = WORDS.get(schedule.cron, schedule.cron).replace("?", "*")
    try:
        times = CronSim(fields, moment.astimezone(ZoneInfo(schedule.time_zone)), reverse=reverse)
    except CronSimError:  # what is well-formed, and a day that no month has
        return None
    found = next(times, None)
    return found.astimezone(UTC) if found else None


def first(schedule: Schedule, count: int) -> list[str]:
    """The first times of one that is submitted now, as ISO 8601."""
    begun = datetime.datetime.now(UTC)
    found = [begun] if not schedule.cron else []
    while len(found) < count and (later := following(schedule, begun, found[-1] if found else begun)):
        found.append(later)
    return [moment.isoformat(timespec="seconds") for moment in found]


def told(schedule: Schedule) -> str:
    """For people."""
    if schedule.cron:
        return f"{schedule.cron} {schedule.time_zone}"
    return f"every {schedule.every_seconds:g} s"


def parsed(text: str) -> datetime.datetime:
    """A time as records have it."""
    return datetime.datetime.fromisoformat(text)
