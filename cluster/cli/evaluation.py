"""`ctl eval`: what evaluations found, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.lazy import group
from cluster.cli.options import StoreRoot
from cluster.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from pipelines.stages.evaluation.paired import Difference, Evaluation
    from pipelines.stages.evaluation.results import Result

evaluation = group("Evaluations: compare, side-by-side.")

NOISE = 0.05  # differences with a larger p are not told from chance

Refs = Annotated[
    list[str], typer.Argument(help="Artifacts that evaluate models; the first is what others are held to.")
]


@evaluation.callback()
def root() -> None:
    """Evaluations: compare what several found."""


@evaluation.command()
def compare(
    refs: Refs,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the paired bootstrap.")] = 0,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Lay figures side by side with their 95 % intervals, and say which differences are more than noise."""
    import msgspec

    from cluster.core.errors import UsageError
    from cluster.core.storage.store import Store
    from pipelines.stages.evaluation import paired

    opened = Store(store)
    if len(set(refs)) < len(refs):
        raise UsageError("an artifact is named twice", "Name each once.")
    found = [paired.read(opened.resolve(ref)) for ref in refs]
    differences = paired.differences(found, seed)
    if as_json:
        results = {one.ref: list(one.results.values()) for one in found}
        print_json(msgspec.to_builtins({"results": results, "differences": differences}))
        return
    rows = [
        (*metric, _better(found, metric), *(_figure(one.results.get(metric)) for one in found))
        for metric in paired.metrics(found)
    ]
    numbers = {one.ref: f"[{number}]" for number, one in enumerate(found, 1)}
    for one in found:
        print(f"{numbers[one.ref]} {one.ref} of {one.model}")
    print_table(("task", "metric", "better", *numbers.values()), rows, "No results.")
    if differences:
        print(f"\nagainst [1], {found[0].ref}")
        shown = [
            (d.task, d.metric, numbers[d.model], _interval(d.difference, d.ci_low, d.ci_high), *_verdict(d))
            for d in differences
        ]
        print_table(("task", "metric", "", "difference", "p", "test", ""), shown, "")


@evaluation.command("side-by-side")
def side_by_side(
    refs: Annotated[list[str], typer.Argument(help="Artifacts generation/..., all asked the same.")],
    html: Annotated[Path, typer.Option("--html", help="File to write.")] = Path("side-by-side.html"),
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Requests to show, the first ones; 0 shows all.")
    ] = 200,
    store: StoreRoot = None,
) -> None:
    """Write a page with the answers of several models to the same requests, and the references."""
    from cluster.core.errors import UsageError
    from cluster.core.storage.store import Store
    from pipelines.stages.evaluation.side_by_side import page

    if len(set(refs)) < max(2, len(refs)):
        raise UsageError("two different artifacts are needed, or more", "Name each once.")
    opened = Store(store)
    html.write_text(page([opened.resolve(ref) for ref in refs], prompts))
    print(f"The page: {html}")


def _better(found: "list[Evaluation]", metric: tuple[str, str]) -> str:
    result = next(one.results[metric] for one in found if metric in one.results)
    return "higher" if result.higher_is_better else "lower"


def _figure(result: "Result | None") -> str:
    return "" if result is None else _interval(result.value, result.ci_low, result.ci_high)


def _interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f} to {high:.4f})"


def _verdict(difference: "Difference") -> tuple[str, str, str]:
    if difference.p_value is None:
        return "", "", f"not paired: {difference.reason}"
    verdict = "differs" if difference.p_value < NOISE else "may be noise"
    return f"{difference.p_value:.4f}", difference.test, verdict
