"""The ledger of an RL run: which prompts were given out and which were learned from; none is lost or used twice.

An append-only file of events. A step's prompts are written before any is sent to an engine (`issued`), and again when
the optimizer has taken the step (`consumed`). A run that goes on at an earlier step says so (`resumed`): what stood
for later steps did not happen, since their weights are gone.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.errors import JobError
from cluster.location import Location

LEDGER_FILE = "ledger.jsonl"


class Ledger:
    """The ledger at a place. One process of a run writes it."""

    def __init__(self, place: Location) -> None:
        self._place = place
        self.events = read(place)
        self._write()  # without a line that was cut off in writing

    def resumed(self, step: int) -> None:
        if self.events:
            self._append({"event": "resumed", "step": step})

    def issued(self, step: int, first_position: int, prompts: list[str]) -> None:
        self._append({"event": "issued", "step": step, "first_position": first_position, "prompts": prompts})

    def consumed(self, step: int) -> None:
        self._append({"event": "consumed", "step": step})

    def _append(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if self._place.is_local:
            with self._place.open(LEDGER_FILE, "ab", buffering=0) as file:
                file.write(_line(event))
        else:  # an object store cannot append
            self._write()

    def _write(self) -> None:
        self._place.write_bytes(LEDGER_FILE, b"".join(map(_line, self.events)))


def read(place: Location) -> list[dict[str, Any]]:
    """The events, oldest first, without a last line that was cut off in writing."""
    if not place.exists(LEDGER_FILE):
        return []
    whole, _, _ = place.read_bytes(LEDGER_FILE).rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def consumed_prompts(events: list[dict[str, Any]]) -> list[str]:
    """The prompts learned from, in order, by what still holds of the events.

    Raises JobError where the ledger does not add up: a step consumed twice, or without having been issued, a step
    missing, or positions of the order that are skipped or repeated.
    """
    issued: dict[int, dict[str, Any]] = {}
    done: list[int] = []
    for event in events:
        step = event["step"]
        if event["event"] == "resumed":
            issued = {s: e for s, e in issued.items() if s < step}
            done = [s for s in done if s < step]
        elif event["event"] == "issued":
            issued[step] = event
        elif step not in issued:
            raise JobError(f"{LEDGER_FILE}: step {step} was consumed without being issued")
        else:
            done.append(step)
    if done != list(range(len(done))):
        raise JobError(f"{LEDGER_FILE}: the steps consumed are not 0, 1, 2, ... each once")
    position = 0
    for step in done:
        if issued[step]["first_position"] != position:
            raise JobError(f"{LEDGER_FILE}: step {step} begins at {issued[step]['first_position']}, not at {position}")
        position += len(issued[step]["prompts"])
    return [prompt for step in done for prompt in issued[step]["prompts"]]


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"
