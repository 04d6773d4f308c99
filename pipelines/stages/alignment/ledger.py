"""The ledger of an RL run: which prompts were given out and which were learned from; none is lost or used twice.

An append-only file of events. A rollout's prompts are written before any is sent to an engine (`issued`), with the
steps that are to learn from them. Each of these says which of the prompts, by their places in the rollout, it was
about, when the optimizer has taken it (`consumed`), or when it was left out (`skipped`): then nothing was learned from
them. Prompts that are drawn for others are written as these were (`redrawn`), and those that they stand for as well
(`dropped`): no step is about them. A run that goes on at an earlier step says so (`resumed`): what stood for later
steps did not happen, since their weights are gone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
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

    def issued(self, step: int, first_position: int, prompts: list[str], steps: int = 1) -> None:
        """Prompts for `steps` steps from `step` on, and where the first stands in the order."""
        found = {"event": "issued", "step": step, "first_position": first_position, "prompts": prompts}
        self._append(found | ({"steps": steps} if steps > 1 else {}))

    def redrawn(self, step: int, prompts: list[str]) -> None:
        """More prompts for the rollout that begins at `step`; they follow in the order, and in the count of places."""
        self._append({"event": "redrawn", "step": step, "prompts": prompts})

    def dropped(self, step: int, places: list[int]) -> None:
        """Prompts of the rollout that begins at `step` of which no step will be."""
        self._append({"event": "dropped", "step": step, "places": places})

    def consumed(self, step: int, places: list[int]) -> None:
        self._append({"event": "consumed", "step": step, "places": places})

    def skipped(self, step: int, reason: str, places: list[int]) -> None:
        self._append({"event": "skipped", "step": step, "reason": reason, "places": places})

    def _append(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._file.append(event)
        self._file.flush()


def read(place: Location) -> list[dict[str, Any]]:
    """The events, oldest first, without a last line that was cut off in writing."""
    return lines.read(place, LEDGER_FILE)


@dataclass(frozen=True)
class Account:
    """What became of the prompts that were given out, each in order: `skipped` is one that no step learned from,
    `dropped` one whose answers were all alike, so that others took its place."""

    consumed: list[str]
    skipped: list[str]
    dropped: list[str] = field(default_factory=list)


def account(events: list[dict[str, Any]]) -> Account:
    """The prompts learned from and those of steps that were left out, by what still holds of the events.

    Raises JobError where the ledger does not add up: a step that ended twice, or without having been issued, a step
    missing, positions of the order that are skipped or repeated, or prompts of a rollout that unequally many of its
    steps were about.
    """
    issued: dict[int, dict[str, Any]] = {}
    ended: list[dict[str, Any]] = []
    for event in events:
        step = event["step"]
        if event["event"] == "resumed":
            issued = {s: e for s, e in issued.items() if s < step}
            ended = [e for e in ended if e["step"] < step]
        elif event["event"] == "issued":
            issued[step] = event
        elif event["event"] in ("redrawn", "dropped"):
            if step not in issued:
                raise JobError(f"{LEDGER_FILE}: prompts of step {step} were {event['event']} without being issued")
            issued[step] = _changed(issued[step], event)
        elif not any(first <= step < first + e.get("steps", 1) for first, e in issued.items()):
            raise JobError(f"{LEDGER_FILE}: step {step} was {event['event']} without being issued")
        else:
            ended.append(event)
    if [event["step"] for event in ended] != list(range(len(ended))):
        raise JobError(f"{LEDGER_FILE}: the steps consumed or skipped are not 0, 1, 2, ... each once")
    position, done = 0, 0
    found = Account([], [])
    while done < len(ended):
        if done not in issued:
            raise JobError(f"{LEDGER_FILE}: step {done} was {ended[done]['event']} without being issued")
        rollout = issued[done]
        if rollout["first_position"] != position:
            raise JobError(f"{LEDGER_FILE}: step {done} begins at {rollout['first_position']}, not at {position}")
        position += len(rollout["prompts"])
        done += _close(rollout, ended[done : done + rollout.get("steps", 1)], found)
    return found


def _changed(rollout: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """What was issued, with the prompts that were drawn besides, or the places of those that were dropped."""
    if event["event"] == "redrawn":
        return rollout | {"prompts": rollout["prompts"] + event["prompts"]}
    return rollout | {"dropped": event["places"]}


def _close(rollout: dict[str, Any], ended: list[dict[str, Any]], found: Account) -> int:
    """Add a rollout's prompts to what was found; return its steps. An event of a ledger of before tells no places: it
    was about all of them."""
    prompts, steps, dropped = rollout["prompts"], rollout.get("steps", 1), set(rollout.get("dropped", ()))
    everywhere = [place for place in range(len(prompts)) if place not in dropped]
    uses = Counter(place for event in ended for place in event.get("places", everywhere))
    if len(ended) < steps or set(uses) != set(everywhere) or len(set(uses.values())) > 1:
        raise JobError(f"{LEDGER_FILE}: the steps from {rollout['step']} on do not use all of their prompts alike")
    learned = {p for event in ended if event["event"] == "consumed" for p in event.get("places", everywhere)}
    for place, prompt in enumerate(prompts):
        if place in dropped:
            found.dropped.append(prompt)
        else:
            (found.consumed if place in learned else found.skipped).append(prompt)
    return steps
