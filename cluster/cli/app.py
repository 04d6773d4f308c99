"""The root of `ctl`: registers the command groups, and turns every error into one sentence and an exit code."""

import os
import sys
from typing import Annotated, Any

import typer

from cluster import __version__
from cluster.cli import (
    artifacts,
    batch,
    bench,
    contexts,
    corpus,
    demo,
    doctor,
    evaluation,
    infra,
    jobs,
    local,
    pipelines,
    serve,
    specs,
    submit,
    sweep,
    tune,
)
from cluster.cli.lazy import LazyGroup
from cluster.core.errors import UsageError


class Commands(LazyGroup):
    """All commands of `ctl`, in the order in which they are listed."""

    entries = {
        "demo": demo.demo,
        "context": contexts.contexts,
        "up": local.up,
        "down": local.down,
        "status": local.status,
        "plan": pipelines.plan,
        "run": pipelines.run,
        "submit": submit.submit,
        "sweep": sweep.sweep,
        "jobs": jobs.jobs,
        "artifacts": artifacts.artifacts,
        "corpus": corpus.corpus,
        "tune": tune.tune,
        "eval": evaluation.evaluation,
        "spec": specs.spec,
        "serve": serve.serve,
        "bench": bench.bench,
        "batch": batch.batch,
        "generate": serve.generate,
        "chat": serve.chat,
        "infra": infra.infra,
        "doctor": doctor.doctor,
    }

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as raised:  # typer would end with 130 and not a word
            from cluster.control.screen.console import interrupted

            raise interrupted(raised) from raised


app = typer.Typer(
    name="ctl",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich's help costs as much start-up time as everything else together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"trunkline {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere on the line.")] = False,
    context: Annotated[
        str,
        typer.Option("--context", metavar="NAME", help="Cluster that is meant [$TRUNKLINE_CONTEXT]; anywhere, too."),
    ] = "",
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Trunkline: from raw text to a served language model, on one Ray cluster."""


def run() -> None:
    """Entry point of the `ctl` command."""
    from cluster.control.screen.console import guarded

    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    sys.exit(guarded(_call, debug=debug))


def without_context(arguments: list[str]) -> tuple[list[str], str]:
    """A command line without its `--context NAME`, wherever that stands; and the name, empty where it is not there."""
    for number, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if argument == "--":
            break
        if name == "--context" and (equals or number + 1 < len(arguments)):
            used = 1 if equals else 2
            return arguments[:number] + arguments[number + used :], value or (
                arguments[number + 1 : number + 2] or [""]
            )[0]
    return arguments, ""


def _call() -> int:
    """Run the command line; what typer says of a wrong one becomes a UsageError."""
    sys.argv, name = without_context(sys.argv)
    if name:  # by the environment, so that child processes mean the same cluster
        os.environ["TRUNKLINE_CONTEXT"] = name
    try:
        return app(standalone_mode=False) or 0
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        if not hasattr(error, "format_message"):  # the base class of typer's own errors is private
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
            return UsageError.exit_code
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "ctl"
        raise UsageError(error.format_message(), f"See `{command} --help`.") from None
