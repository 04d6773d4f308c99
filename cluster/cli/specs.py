"""`ctl spec`: what can be asked for."""

import functools
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.lazy import group
from cluster.cli.output import AsJson, print_json, print_table

spec = group("Specs: kinds, their JSON Schema, and validation of a file.")


@spec.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the kinds of spec."""
    from pipelines.specs import SPECS

    described = {kind: (cls.__doc__ or "").split("\n")[0] for kind, cls in SPECS.items()}
    if as_json:
        items = [(kind, ", ".join(SPECS[kind].inputs.values()), text) for kind, text in described.items()]
        print_json([dict(zip(("kind", "inputs", "description"), item, strict=True)) for item in items])
        return
    rows = [(kind, _inputs(SPECS[kind].inputs), text) for kind, text in described.items()]
    print_table(("kind", "built from", "what it is"), rows, "")


def _inputs(inputs: dict[str, str]) -> str:
    """What a stage is built from, each kind once; those that hold a causal language model are `a model`,
    those that hold conversations `conversations`."""
    from pipelines.stages.training.spec import CONVERSATIONS, MODELS

    short = ((MODELS, "a model"), (CONVERSATIONS, "conversations"), ("|", " or "))
    named = (functools.reduce(lambda text, pair: text.replace(*pair), short, kinds) for kinds in inputs.values())
    return ", ".join(dict.fromkeys(named))


@spec.command()
def schema(kind: Annotated[str, typer.Argument(help="Kind of spec, see `ctl spec list`.")]) -> None:
    """Print the JSON Schema of a kind, so that editors complete the YAML."""
    from cluster.core.errors import InputError, nearest
    from cluster.core.specs.spec import schema as schema_of
    from pipelines.specs import SPECS

    if kind not in SPECS:
        raise InputError(f"no spec is called {kind!r}", nearest(kind, list(SPECS)))
    print_json(schema_of(SPECS[kind]))


@spec.command()
def validate(
    file: Annotated[Path, typer.Argument(help="YAML file: kinds to fields, as given to --config.")],
    as_json: AsJson = False,
) -> None:
    """Check a file given to `--config` whose steps are named after their kinds, and show the resolved specs."""
    from cluster.core.errors import SpecError, nearest
    from cluster.core.graph import read_yaml
    from cluster.core.specs.spec import convert, fields
    from pipelines.specs import SPECS

    resolved = {}
    for kind, given in read_yaml(file).items():
        if kind not in SPECS:
            raise SpecError(f"{file}: {kind}: no spec is called so", nearest(str(kind), list(SPECS)))
        if not isinstance(given, dict):
            raise SpecError(f"{file}: {kind}: expected fields, got {given!r}")
        resolved[kind] = fields(convert(given, SPECS[kind], f"{file}: {kind}"))
    if as_json:
        print_json(resolved)
        return
    from cluster.core.specs.literals import dump

    print(dump(resolved), end="")
