"""Load tests side by side: a table, and a picture of their latencies."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

from cluster.core.errors import NotReadyError, UsageError
from pipelines.stages.load.client import Sample
from pipelines.stages.load.figures import Figures
from pipelines.stages.load.report import Report

Named = Sequence[tuple[str, Report]]
DRAWN: dict[str, Callable[[Sample], float | None]] = {
    "TTFT": lambda sample: sample.ttft,
    "TPOT": lambda sample: sample.tpot,
    "whole answer": lambda sample: sample.e2e,
}


def _latencies() -> dict[str, tuple[Callable[[Figures], float | None], bool]]:
    found: dict[str, tuple[Callable[[Figures], float | None], bool]] = {}
    for name, told in (("ttft", "TTFT"), ("tpot", "TPOT"), ("itl", "inter-token"), ("e2e", "whole answer")):
        for at in ("p50", "p95", "p99"):

            def figure(figures: Figures, name: str = name, at: str = at) -> float | None:
                summary = getattr(figures, name)
                return None if summary is None else 1000 * float(getattr(summary, at))

            found[f"{told} {at}, ms"] = (figure, False)
    return found


# What is told, by its name: how it is read, and whether more is better.
ROWS: dict[str, tuple[Callable[[Figures], float | None], bool]] = {
    "requests a second": (lambda found: found.requests_per_second, True),
    "output tokens a second": (lambda found: found.output_tokens_per_second, True),
    "goodput, requests a second": (lambda found: found.goodput_per_second, True),
    **_latencies(),
    "failed, of 100": (lambda found: 100 * (1 - found.answered / found.requests), False),
}


def table(reports: Named) -> list[tuple[str, ...]]:
    """A row a figure: what it is, which is better, and each report's, with its ratio to the first's."""
    rows = []
    for name, (read, higher) in ROWS.items():
        values = [read(report.figures) for _, report in reports]
        if any(value is not None for value in values):
            rows.append((name, "higher" if higher else "lower", *(_cell(value, values[0]) for value in values)))
    return rows


def _cell(value: float | None, first: float | None) -> str:
    if value is None:
        return ""
    told = f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
    return told if value is first or not first else f"{told} (x{value / first:.2f})"


def unlike(reports: Named) -> list[str]:
    """The fields of what was asked in which they differ: their figures are then of different loads."""
    own = {"url", "run", "model", "timeout_seconds"}
    first = reports[0][1].spec
    return sorted(
        {name for _, report in reports for name in first.keys() | report.spec.keys()
         if name not in own and report.spec.get(name) != first.get(name)}
    )  # fmt: skip


def picture(reports: Named, kind: str) -> bytes:
    """For each latency the share of answers that took at most so long, as `svg` or `png`.

    Raises UsageError for another kind, NotReadyError without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import LogLocator, NullLocator
    except ImportError:
        raise NotReadyError("a picture needs matplotlib", "`pip install 'trunkline[train]'`.") from None

    if kind not in ("svg", "png"):
        raise UsageError(f"--plot: no picture is written as .{kind}", "Name it FILE.svg or FILE.png.")
    shown = {name: read for name, read in DRAWN.items()
             if any(_values(report, read) for _, report in reports)}  # fmt: skip
    figure = Figure(figsize=(4.5 * len(shown), 4), layout="constrained")
    for axes, (name, read) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for called, report in reports:
            if values := _values(report, read):
                axes.ecdf([1000 * value for value in values], label=called)
        axes.set_xlabel(f"{name}, ms")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylabel("share of answers")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize="small")
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "trunkline"}):  # else the same points give other bytes each time
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return buffer.getvalue()


def _values(report: Report, read: Callable[[Sample], float | None]) -> list[float]:
    return [value for sample in report.samples if not sample.failed and (value := read(sample)) is not None]
