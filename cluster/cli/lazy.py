"""A group whose commands are built when they are called.

Typer reads the signature of every command at every start, which takes as long as importing typer. The list of commands
needs names and first lines only.
"""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

Entry = Callable[..., None] | typer.Typer


def group(help_text: str = "") -> typer.Typer:
    """An empty Typer for one group of commands."""
    return typer.Typer(help=help_text, no_args_is_help=bool(help_text), add_completion=False, rich_markup_mode=None)


class LazyGroup(TyperGroup):
    """Subclasses set `entries`: command name to its function, or to the Typer of a group."""

    entries: dict[str, Entry] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = dict.fromkeys(self.entries)  # type: ignore[assignment]  # to suggest from

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        if not isinstance(entry, typer.Typer):
            single = group()
            single.command()(entry)
            entry = single
        command = typer.main.get_command(entry)
        command.name = cmd_name
        command.context_settings.update(self.context_settings)
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_line(entry)) for name, entry in self.entries.items()])


def _first_line(entry: Entry) -> str:
    text = entry.info.help if isinstance(entry, typer.Typer) else entry.__doc__
    return str(text or "").strip().splitlines()[0]
