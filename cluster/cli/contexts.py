"""`ctl context`: the clusters that one has."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import group
from cluster.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from cluster.core.clusters.kinds import AnyContext

contexts = group("Contexts, the clusters that one has: add, list, use, show, remove, kinds.")

PATHS = ("token_file", "key", "ssh_config", "kubeconfig")  # of this machine: kept whole, whatever folder one is in
KINDS = "local, ssh, address or kubernetes"

ContextName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the context.", show_default=False)]


@contexts.command()
def add(
    name: ContextName,
    kind: Annotated[str, typer.Argument(help=f"{KINDS[0].upper()}{KINDS[1:]}.", show_default=False)],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Set a field; may be repeated.", show_default=False),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a context of this name.")] = False,
    use: Annotated[bool, typer.Option("--use", help="Make it the current context.")] = False,
) -> None:
    """Describe a cluster. Nothing is started; `ctl context kinds KIND` lists the fields.

    `ctl context add lab ssh --set hosts='[gpu1, ml@gpu2:2222]' --set checkout=/srv/trunkline --set store=s3://m/t`
    """
    from cluster.core.clusters.book import changed, check_name
    from cluster.core.clusters.kinds import KINDS, make
    from cluster.core.errors import UsageError, nearest

    check_name(name)
    if kind not in KINDS:
        raise UsageError(f"there is no kind of context {kind!r}", nearest(kind, list(KINDS)))
    context = make(kind, _fields(set_ or []), name)
    with changed() as book:
        if name in book.contexts and not replace:
            raise UsageError(f"there is a context {name!r}", "Choose another name, or say --replace.")
        book.contexts[name] = context
        if use:
            book.current = name
    print(f"Added {name}." + ("" if use else f" `ctl context use {name}` makes it the current one."))


def _fields(sets: list[str]) -> dict[str, Any]:
    from cluster.core.errors import SpecError
    from cluster.core.graph import read_changes

    for assignment in sets:
        if "=" not in assignment:
            raise SpecError(f"--set {assignment}: not of the form FIELD=VALUE", "Try hosts=[gpu1, gpu2].")
    given = dict(read_changes(None, [f"context.{assignment}" for assignment in sets]).get("context", {}))
    for field in PATHS:
        if given.get(field):
            given[field] = os.path.abspath(os.path.expanduser(str(given[field])))
    if isinstance(store := given.get("store"), str) and store and "://" not in store:
        given["store"] = os.path.abspath(os.path.expanduser(store))
    return given


@contexts.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the contexts; the current one has a star."""
    from cluster.core.clusters.book import read

    book = read()
    if as_json:
        print_json([_told(name, context, name == book.current) for name, context in sorted(book.contexts.items())])
        return
    rows = [
        ("*" if name == book.current else "", name, context.kind, _where(context), context.store)
        for name, context in sorted(book.contexts.items())
    ]
    empty = "No contexts: commands mean this machine, or what RAY_ADDRESS names. See `ctl context add --help`."
    print_table(("", "context", "kind", "where", "store"), rows, empty)


@contexts.command()
def use(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The context; none: no context is the current one.")
    ] = "",
) -> None:
    """Make a context the current one, which is meant where neither --context, TRUNKLINE_CONTEXT nor RAY_ADDRESS is."""
    from cluster.core.clusters.book import changed

    with changed() as book:
        if name:
            book.get(name)
        book.current = name
    print(f"{name} is the current context." if name else "No context is the current one.")


@contexts.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The context [default: the one that is meant].", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show a context; without a name the cluster that is meant now, and what says so."""
    from cluster.core.clusters.book import read
    from cluster.core.clusters.meant import Meant, meant

    found = Meant(read().get(name), name, "its name") if name else meant()
    told = _told(found.name, found.context, None) | {"said by": found.said_by or "nobody"}
    if as_json:
        print_json(told)
        return
    print_table(("field", "value"), [(key, value) for key, value in told.items() if value not in ("", None)], "")


@contexts.command()
def remove(name: ContextName) -> None:
    """Forget a context. What runs there goes on: `ctl --context NAME down` before."""
    from cluster.core.clusters.book import changed

    with changed() as book:
        book.get(name)
        del book.contexts[name]
        if book.current == name:
            book.current = ""
    print(f"Removed {name}.")


@contexts.command()
def kinds(
    kind: Annotated[str, typer.Argument(metavar="[KIND]", help="One kind: its fields.", show_default=False)] = "",
) -> None:
    """List the kinds of context, or the fields of one."""
    from cluster.core.clusters.kinds import KINDS
    from cluster.core.errors import UsageError, nearest
    from cluster.core.specs.spec import field_docs

    if not kind:
        print_table(("kind", "what it is"), [(name, _line(cls)) for name, cls in KINDS.items()], "")
        return
    if kind not in KINDS:
        raise UsageError(f"there is no kind of context {kind!r}", nearest(kind, list(KINDS)))
    docs = field_docs(KINDS[kind])
    fields = [name for name in KINDS[kind].__struct_fields__ if name in docs]
    print_table(("field", "what it says"), [(name, docs[name]) for name in fields], "")


def _line(cls: "type[AnyContext]") -> str:
    return " ".join((cls.__doc__ or "").split())


def _told(name: str, context: "AnyContext", current: bool | None) -> dict[str, Any]:
    """A context's fields, with its name and kind."""
    import msgspec

    fields = msgspec.to_builtins(context)
    told = {"name": name, "kind": context.kind, **{key: value for key, value in fields.items() if key != "kind"}}
    return told if current is None else {**told, "current": current}


def _where(context: "AnyContext") -> str:
    """Where a cluster is, in a few words."""
    parts = (getattr(context, field, "") for field in ("hosts", "address", "context", "namespace"))
    return " ".join(", ".join(part) if isinstance(part, tuple) else part for part in parts if part)
