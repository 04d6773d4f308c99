"""What the commands print: tables for people, JSON for programs."""

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], empty: str) -> None:
    """A table; `empty` is said where there are no rows. Piped into a file, rows keep their full width."""
    if not rows:
        print(empty)
        return
    from cluster.control.screen.terminal import console as make_console

    table = make_table(headings, rows)
    console = make_console()
    if not console.is_terminal:
        console.width = 200
    console.print(table, markup=False, highlight=False)


def make_table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Any:
    """A table of rich's, without a frame."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


class Progress:
    """How far work is: a line on stderr every few seconds."""

    EVERY_SECONDS = 5.0

    def __init__(self, unit: str, quiet: bool = False) -> None:
        self.unit, self.quiet, self.told_at = unit, quiet, time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        if not self.quiet and time.monotonic() - self.told_at > self.EVERY_SECONDS:
            self.told_at = time.monotonic()
            print(f"{done:,.0f} of {total:,.0f} {self.unit}", file=sys.stderr, flush=True)


def size(size_bytes: float) -> str:
    """Bytes for people: `12.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size_bytes) < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def duration(seconds: float) -> str:
    """Time for people: `45 s`, `12 min`, `3.5 h`, `12 days`."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.{0 if unit == 'min' else 1}f} {unit}"
    return f"{seconds:.0f} s"
