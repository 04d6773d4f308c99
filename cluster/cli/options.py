"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

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
