"""How a running pipeline looks: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import datetime
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.control.screen.forecast import Forecast
from cluster.control.screen.terminal import console
from cluster.core.graph import Step
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.holder import Holder

LINE_SECONDS = 10.0
KEY_WIDTH = 14
WHAT_WIDTH = 78


def figures(stats: dict[str, Any]) -> str:
    """A few figures in one short line; numbers rounded to what can be read, units as people write them."""
    return "  ".join(_figure(key, value) for key, value in stats.items() if value is not None)


def _figure(key: str, value: Any) -> str:
    if key == "eta_seconds":
        return f"ETA {datetime.timedelta(seconds=round(value))}"
    if key.endswith("_per_second"):
        return f"{_number(value)} {key.removesuffix('_per_second')}/s"
    return f"{key} {_number(value)}"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def amount(done: float, total: float, unit: str) -> str:
    share = f"{done / total:4.0%} " if total else ""
    return f"{share}{_number(int(done))}/{_number(int(total))} {unit}"


class View:
    """Plain lines: the stages at the start, one when a stage ends, and one every few seconds between.

    `usual_seconds` are what stages took elsewhere, by their keys: with them the view tells how long the rest takes.
    """

    def __init__(self, usual_seconds: Mapping[str, float] | None = None) -> None:
        self._last = 0.0
        self._usual_seconds = usual_seconds or {}
        self._forecast = Forecast((), {})

    @contextmanager
    def running(self, steps: Sequence[Step], missing: Sequence[Step]) -> Iterator[None]:
        """While a graph of `steps` is built, of which those in `missing` are not there yet."""
        self._forecast = Forecast([step.key for step in missing], self._usual_seconds)
        if missing:
            self._overview(steps, missing)
        yield

    def _overview(self, steps: Sequence[Step], missing: Sequence[Step]) -> None:
        there = len(steps) - len(missing)
        known = f", {there} of them built before" if there else ""
        told = self._forecast.told()
        self._say(f"{len(steps)} stages{known}{told and ', ' + told}:")
        for step in steps:
            self._say(f"  {step.key:<{KEY_WIDTH}} {what_it_is(step)}")

    def _say(self, text: str) -> None:
        print(text, flush=True)

    def started(self, key: str) -> None:
        self._last = time.monotonic()

    def progress(self, key: str, done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
        self._forecast.progressed(key, done / total if total else 0.0)
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            self._say(f"{key}: {amount(done, total, unit)}  {figures(stats)}".rstrip())

    def waiting(self, key: str, holder: Holder) -> None:
        self._say(f"{key}: process {holder.pid} on {holder.host} is building it; waiting for its result")

    def notice(self, key: str, text: str) -> None:
        self._say(f"{key}: {text}")  # rich puts what is printed above its table

    def finished(self, key: str, artifact: Artifact, seconds: float, *, was_there: bool) -> None:
        if was_there:
            self._say(f"{key}: {artifact.record.ref} is there")
            return
        self._forecast.finished(key, seconds)
        told = self._forecast.told()
        self._say(f"{key}: {artifact.record.ref} built in {seconds:.1f} s{told and '; ' + told}")


def what_it_is(step: Step) -> str:
    """The first sentence of what a step's spec says of itself, cut to a line."""
    first = (type(step.spec).__doc__ or "").strip().partition("\n")[0]
    sentence = re.split(r"[.:;] |\.$", first)[0]
    return sentence if len(sentence) <= WHAT_WIDTH else f"{sentence[: WHAT_WIDTH - 3].rsplit(' ', 1)[0]} ..."


class LiveView(View):
    """A table that is redrawn in place: a row a stage, with what it is until it runs, and below it the time left."""

    def __init__(self, usual_seconds: Mapping[str, float] | None = None) -> None:
        super().__init__(usual_seconds)
        self._rows: dict[str, tuple[str, str]] = {}
        self._live: Any = None

    @contextmanager
    def running(self, steps: Sequence[Step], missing: Sequence[Step]) -> Iterator[None]:
        from rich.live import Live

        self._forecast = Forecast([step.key for step in missing], self._usual_seconds)
        self._rows = {step.key: ("", what_it_is(step)) for step in steps}
        with Live(self._table(), console=console(), refresh_per_second=4, vertical_overflow="visible") as self._live:
            yield

    def _table(self) -> Any:
        from rich.table import Table

        told = self._forecast.told()
        table = Table(box=None, pad_edge=False, caption=told or None, caption_justify="left")
        for heading in ("stage", "state"):
            table.add_column(heading, no_wrap=True)
        table.add_column("")  # on a narrow terminal its figures go on in the next line
        styles = {"done": "green", "there": "dim", "running": "cyan", "": "dim"}
        for key, (state, text) in self._rows.items():
            table.add_row(key, state, text, style=styles.get(state.partition(" ")[0], ""))
        return table

    def _row(self, key: str, state: str, text: str) -> None:
        self._rows[key] = (state, text)
        self._live.update(self._table())

    def started(self, key: str) -> None:
        self._row(key, "running", self._rows[key][1])

    def progress(self, key: str, done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
        self._forecast.progressed(key, done / total if total else 0.0)
        self._row(key, "running", f"{amount(done, total, unit)}  {figures(stats)}")

    def waiting(self, key: str, holder: Holder) -> None:
        self._row(key, "waiting", f"process {holder.pid} on {holder.host} is building it")

    def finished(self, key: str, artifact: Artifact, seconds: float, *, was_there: bool) -> None:
        if not was_there:
            self._forecast.finished(key, seconds)
        self._row(key, "there" if was_there else f"done {seconds:.0f} s", artifact.record.ref)


def make_view(usual_seconds: Mapping[str, float] | None = None) -> View:
    """A live table where a person looks on, plain lines elsewhere."""
    return LiveView(usual_seconds) if sys.stdout.isatty() else View(usual_seconds)
