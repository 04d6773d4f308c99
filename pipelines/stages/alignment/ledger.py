"""The ledger of an RL run: which prompts were given out and which were learned from; none is lost or used twice.

An append-only file of events. A step's prompts are written before any is sent to an engine (`issued`), and again when
the optimizer has taken the step (`consumed`), or when it was left out (`skipped`): then nothing was learned from them.
A run that goes on at an earlier step says so (`resumed`): what stood for later steps did not happen, since their
weights are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.core.errors import JobError
from cluster.core.storage import lines
from cluster.core.storage.lines import LineFile
from cluster.core.storage.location import Location

LEDGER_FILE = "ledger.jsonl"


class Ledger:
    """The ledger at a place. One process of a run writes it."""

    def __init__(self, place: Location) -> None:
        self._file = LineFile(place, LEDGER_FILE)
        self.events = read(place)

    def resumed(self, step: int) -> None:
        if self.events:
            self._append({"event": "resumed", "step": step})

    def issued(self, step: int, first_position: int, prompts: list[str]) -> None:
        self._append({"event": "issued", "step": step, "first_position": first_position, "prompts": prompts})

    def consumed(self, step: int) -> None:
        self._append({"event": "consumed", "step": step})

    def skipped(self, step: int, reason: str) -> None:
        self._append({"event": "skipped", "step": step, "reason": reason})

    def _append(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._file.append(event)
        self._file.flush()


def read(place: Location) -> list[dict[str, Any]]:
    """The events, oldest first, without a last line that was cut off in writing."""
    return lines.read(place, LEDGER_FILE)


@dataclass(frozen=True)
class Account:
    """What became of the prompts that were given out, each in order."""

    consumed: list[str]
    skipped: list[str]


def account(events: list[dict[str, Any]]) -> Account:
    """The prompts learned from and those of steps that were left out, by what still holds of the events.

    Raises JobError where the ledger does not add up: a step that ended twice, or without having been issued, a step
    missing, or positions of the order that are skipped or repeated.
    """
    issued: dict[int, dict[str, Any]] = {}
    ended: list[tuple[int, str]] = []  # steps, and whether they were consumed or skipped
    for event in events:
        step = event["step"]
        if event["event"] == "resumed":
            issued = {s: e for s, e in issued.items() if s < step}
            ended = [(s, how) for s, how in ended if s < step]
        elif event["event"] == "issued":
            issued[step] = event
        elif step not in issued:
            raise JobError(f"{LEDGER_FILE}: step {step} was {event['event']} without being issued")
        else:
            ended.append((step, event["event"]))
    if [step for step, _ in ended] != list(range(len(ended))):
        raise JobError(f"{LEDGER_FILE}: the steps consumed or skipped are not 0, 1, 2, ... each once")
    position = 0
    found = Account([], [])
    for step, how in ended:
        if issued[step]["first_position"] != position:
            raise JobError(f"{LEDGER_FILE}: step {step} begins at {issued[step]['first_position']}, not at {position}")
        position += len(issued[step]["prompts"])
        (found.skipped if how == "skipped" else found.consumed).extend(issued[step]["prompts"])
    return found
