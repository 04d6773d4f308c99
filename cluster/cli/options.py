"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Any

import typer

Script = Annotated[Path, typer.Argument(help="Pipeline script.", show_default=False)]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="YAML file: step to fields.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STEP.FIELD=VALUE", help="Override one field; may be repeated.", show_default=False),
]
Name = Annotated[str, typer.Option("--name", help="Name of the artifacts [default: the pipeline's].")]
HardwareName = Annotated[
    str,
    typer.Option(
        "--hardware",
        metavar="GPU[:GB]",
        help="GPU of each training worker (h100, a100-80gb, ...), and GB of main memory beside it [this machine].",
    ),
]
StoreRoot = Annotated[
    str | None,
    typer.Option("--store", envvar="TRUNKLINE_STORE", help="Root of the artifact store: a path or s3://..."),
]
ChangeTask = Annotated[
    bool,
    typer.Option(
        "--change-task",
        help="Also where the model does not do what was done under the name before, as one that scores does not chat.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", help="File with the endpoint's key [$OPENAI_API_KEY].", show_default=False),
]


def key_in(file: Path | None) -> str:
    """The key that a file holds; without one that of OPENAI_API_KEY, or nothing."""
    import os

    from cluster.core.errors import InputError

    if file is None:
        return os.environ.get("OPENAI_API_KEY", "")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--key-file {file}: {error}", "Give a file with the key alone.") from None


def fields_of(step: str, sets: list[str]) -> dict[str, Any]:
    """What --set says of the one step that a command has. Raises SpecError for another."""
    from cluster.core.errors import SpecError
    from cluster.core.graph import read_changes

    changes = read_changes(None, sets)
    if unknown := [name for name in changes if name != step]:
        raise SpecError(f"--set {unknown[0]}: there is only {step}", f"Write --set {step}.FIELD=VALUE.")
    return dict(changes.get(step, {}))
