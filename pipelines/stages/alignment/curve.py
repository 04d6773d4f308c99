"""The curve of an RL run: held-out evaluations as JSON lines, as a picture, and as a line of text."""

from __future__ import annotations

import io
import json
from typing import Any

from cluster.core import metrics
from cluster.core.storage.location import Location

CURVE_FILE = "curve.jsonl"
PICTURE_FILE = "curve.png"
TEXT_FILE = "curve.txt"
BARS = "▁▂▃▄▅▆▇█"


class Curve:
    """The evaluations of a run, in order. One process writes them."""

    def __init__(self, place: Location) -> None:
        self._place = place
        self.points = read(place)

    def cut(self, step: int) -> None:
        """The run goes on at a step: what was evaluated later, or is evaluated again now, is dropped."""
        self.points = [point for point in self.points if point[metrics.STEP] <= step and step > 0]
        self._write()

    def add(self, point: dict[str, Any]) -> None:
        self.points = [p for p in self.points if p[metrics.STEP] != point[metrics.STEP]] + [point]
        self._write()

    def _write(self) -> None:
        self._place.write_bytes(CURVE_FILE, b"".join(json.dumps(point).encode() + b"\n" for point in self.points))


def read(place: Location) -> list[dict[str, Any]]:
    if not place.exists(CURVE_FILE):
        return []
    return [json.loads(line) for line in place.read_bytes(CURVE_FILE).splitlines()]


def names(points: list[dict[str, Any]]) -> list[str]:
    """The figures that every evaluation has."""
    return [name for name in points[0] if name != metrics.STEP and all(name in point for point in points)]


def in_text(points: list[dict[str, Any]]) -> str:
    """One line a figure, for a terminal: name, first value, bars, last value."""
    return "".join(_line(name, [point[name] for point in points]) for name in names(points))


def _line(name: str, values: list[float]) -> str:
    low, high = min(values), max(values)
    spread = (high - low) or 1.0
    bars = "".join(BARS[round((value - low) / spread * (len(BARS) - 1))] for value in values)
    return f"{name:<28} {values[0]:7.3f} {bars} {values[-1]:7.3f}\n"


def in_png(points: list[dict[str, Any]], title: str) -> bytes:
    """All figures over the steps, one panel each, as PNG. The same points give the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = names(points)
    figure = Figure(figsize=(8, 2 * len(shown)), layout="constrained")
    figure.suptitle(title)
    for axes, name in zip(figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0], shown, strict=True):
        axes.plot([point[metrics.STEP] for point in points], [point[name] for point in points], marker="o")
        axes.set_ylabel(name.removeprefix("heldout_"))
        axes.grid(alpha=0.3)
    axes.set_xlabel("step")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
