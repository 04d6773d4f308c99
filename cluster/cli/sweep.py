"""`ctl sweep`: the best values of a pipeline's fields, by trials."""

import sys
from contextlib import nullcontext, redirect_stdout
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import Config, Name, Script, Sets, StoreRoot
from cluster.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from cluster.control.sweeps.sweep import Trial


class Mode(StrEnum):
    """Which values of the metric are better."""

    min = "min"
    max = "max"


class Scheduler(StrEnum):
    """What ends trials early."""

    asha = "asha"
    none = "none"


def sweep(
    script: Script,
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="STEP.FIELD=VALUES",
            help="A field to vary: LOW..HIGH, LOW..HIGH:log or A,B,C; may be repeated.",
            show_default=False,
        ),
    ],
    samples: Annotated[int, typer.Option("--samples", min=1, help="Trials to draw.")] = 8,
    metric: Annotated[
        str, typer.Option("--metric", help="What trials are judged by: METRIC of the swept training, or STEP.METRIC.")
    ] = "validation_loss",
    mode: Annotated[Mode, typer.Option("--mode", help="Whether less or more of it is better.")] = Mode.min,
    scheduler: Annotated[
        Scheduler, typer.Option("--scheduler", help="asha: end what falls behind; none: run every trial to its end.")
    ] = Scheduler.asha,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 0,
    concurrent: Annotated[
        int, typer.Option("--concurrent", min=0, help="Trials at a time; 0: as many as the cluster has room for.")
    ] = 0,
    stall_seconds: Annotated[
        float, typer.Option("--stall-seconds", min=0, help="Stop a trial after so long without progress; 0: never.")
    ] = 3600.0,
    config: Config = None,
    set_: Sets = None,
    name: Name = "",
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline with varied fields, end early what falls behind, and list the trials, best first.

    Every trial's artifacts are in the store; the same command resumes a sweep that was interrupted, and shows one
    that has ended. Its table is kept in the store's .sweeps folder, too.
    """
    from msgspec import to_builtins

    from cluster.control.screen.view import View
    from cluster.control.sweeps.space import parse_axis
    from cluster.control.sweeps.sweep import Plan, run_sweep
    from cluster.core.graph import read_changes
    from cluster.core.storage.store import Store

    plan = Plan(
        script,
        Store(store),
        read_changes(config, set_ or []),
        name,
        [parse_axis(text) for text in over],
        samples=samples,
        metric=metric,
        mode=mode.value,
        seed=seed,
        over=over,
    )
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        found = run_sweep(
            plan,
            View(),
            prune=scheduler is Scheduler.asha,
            concurrent=concurrent,
            stall_seconds=stall_seconds,
            tell=_tell,
        )
    if as_json:
        print_json({"place": plan.place.url, **to_builtins(found)})
        return
    paths = list(found.trials[0].fields)
    rows = [
        (*(_short(trial.fields[path]) for path in paths), trial.state, f"{trial.percent:.0f} %", _short(trial.value),
         trial.artifact or trial.error)
        for trial in found.best_first()
    ]  # fmt: skip
    print_table((*paths, "state", "done", found.metric, "artifact"), rows, "There are no trials.")
    print(f"\n{plan.place.url}/sweep.json")


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _tell(trial: "Trial") -> None:
    fields = "  ".join(f"{path}={_short(value)}" for path, value in trial.fields.items())
    print(
        f"{trial.state} at {trial.percent:.0f} %  {_short(trial.value)}  {fields}  {trial.error}".rstrip(), flush=True
    )
