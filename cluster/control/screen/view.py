"""How a running pipeline looks: a live table on a terminal, plain lines in a log."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster.control.screen.terminal import console
from cluster.core.graph import Graph
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.holder import Holder

LINE_SECONDS = 10.0


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
    """Plain lines: one when a step starts and ends, and one every few seconds between."""

    def __init__(self) -> None:
        self._last = 0.0

    @contextmanager
    def running(self, graph: Graph) -> Iterator[None]:
        yield

    def _say(self, text: str) -> None:
        print(text, flush=True)

    def started(self, key: str) -> None:
        self._last = time.monotonic()

    def progress(self, key: str, done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
        if time.monotonic() - self._last >= LINE_SECONDS:
            self._last = time.monotonic()
            self._say(f"{key}: {amount(done, total, unit)}  {figures(stats)}".rstrip())

    def waiting(self, key: str, holder: Holder) -> None:
        self._say(f"{key}: process {holder.pid} on {holder.host} is building it; waiting for its result")

    def notice(self, key: str, text: str) -> None:
        self._say(f"{key}: {text}")  # rich puts what is printed above its table

    def finished(self, key: str, artifact: Artifact, seconds: float, *, was_there: bool) -> None:
        how = "is there" if was_there else f"built in {seconds:.1f} s"
        self._say(f"{key}: {artifact.record.ref} {how}")


class LiveView(View):
    """A table that is redrawn in place, one row a step."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[str, tuple[str, str]] = {}
        self._live: Any = None

    @contextmanager
    def running(self, graph: Graph) -> Iterator[None]:
        from rich.live import Live

        self._rows = {step.key: ("waiting", "") for step in graph.steps}
        with Live(self._table(), console=console(), refresh_per_second=4, vertical_overflow="visible") as self._live:
            yield

    def _table(self) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for heading in ("stage", "state"):
            table.add_column(heading, no_wrap=True)
        table.add_column("")  # on a narrow terminal its figures go on in the next line
        styles = {"done": "green", "there": "dim", "running": "cyan"}
        for key, (state, text) in self._rows.items():
            table.add_row(key, state, text, style=styles.get(state.split()[0], ""))
        return table

    def _row(self, key: str, state: str, text: str) -> None:
        self._rows[key] = (state, text)
        self._live.update(self._table())

    def started(self, key: str) -> None:
        self._row(key, "running", "")

    def progress(self, key: str, done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
        self._row(key, "running", f"{amount(done, total, unit)}  {figures(stats)}")

    def waiting(self, key: str, holder: Holder) -> None:
        self._row(key, "waiting", f"process {holder.pid} on {holder.host} is building it")

    def finished(self, key: str, artifact: Artifact, seconds: float, *, was_there: bool) -> None:
        self._row(key, "there" if was_there else f"done {seconds:.0f} s", artifact.record.ref)


def make_view() -> View:
    """A live table where a person looks on, plain lines elsewhere."""
    return LiveView() if sys.stdout.isatty() else View()
