"""What the documents tell to type: every `ctl` command is parsed by the real command line, every override by its
specs; and the table of stages names real ones."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cluster.cli.app import app, without_context
from cluster.core.errors import InputError, SpecError
from cluster.core.graph import read_changes
from cluster.core.storage.store import Store
from cluster.pipeline import load_script
from pipelines.specs import SPECS
from tests.conftest import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(ctl [^`]+)`")


def fenced() -> list[tuple[str, str]]:
    """Commands in blocks of code: the document's name, and a whole line of shell."""
    found = []
    for document in DOCUMENTS:
        for block in FENCED.findall(document.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                if command := re.match(r" *(?:\$ )?(?:.*\| )?(ctl .+)", line):
                    found.append((document.name, command[1]))
    return found


def inline() -> list[tuple[str, str]]:
    """Commands within sentences, which may leave arguments out."""
    texts = [(document.name, FENCED.sub("", document.read_text())) for document in DOCUMENTS]
    return [(name, " ".join(command.split())) for name, text in texts for command in INLINE.findall(text)]


def words(command: str) -> list[str]:
    """What the shell passes on; a comment, a pipe and what follows are not ours."""
    found, _ = without_context(shlex.split(command, comments=True)[1:])
    return found[: found.index(">")] if ">" in found else found


def leaf(arguments: list[str]) -> tuple[Any, Any, list[str]]:
    """The command that is meant, its context, and the rest of the line."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("ctl", ["doctor"])  # any: the group itself takes no arguments
    while hasattr(command, "list_commands"):
        assert arguments, "which command?"
        name, *arguments = arguments
        known = command.list_commands(context)
        assert name in known, f"no command {name!r}, only {known}"
        command = command.get_command(context, name)
    return command, context, arguments


@pytest.mark.parametrize(("document", "command"), fenced(), ids=lambda value: value[:70])
def test_commands_in_blocks_are_real(document: str, command: str, tmp_path: Path) -> None:
    first, *others = " ".join(words(command)).split(" | ") if " | " in command else [None]
    arguments = words(command) if first is None else first.split()
    meant, context, rest = leaf(arguments)
    if others:  # `ctl artifacts list | show | ...`: a choice of commands
        for other in others:
            leaf([*arguments[:-1], other])
        return
    options = meant.make_context(meant.name, rest, parent=context).params
    if (script := options.get("script")) and (ROOT / script).exists():
        check_overrides(ROOT / script, options.get("set_") or [], tmp_path)


def check_overrides(script: Path, sets: list[str], root: Path) -> None:
    try:
        load_script(script).graph(Store(root), read_changes(None, sets), "")
    except InputError as error:
        assert "no artifact" in str(error), error  # such as sft/mine, which the reader has and we have not
    except SpecError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize(("document", "command"), inline(), ids=lambda value: value[:70])
def test_commands_in_sentences_are_real(document: str, command: str) -> None:
    arguments = shlex.split(command)[1:]
    named = [word for word in arguments if not word.startswith("-") and word.islower() and word.isalpha()]
    if not named:  # such as `ctl --help`
        return
    command_: Any = typer.main.get_command(app)
    context = command_.make_context("ctl", ["doctor"])
    assert named[0] in command_.list_commands(context), command
    if hasattr(command_.get_command(context, named[0]), "list_commands") and len(named) == 1:
        return
    meant, _, rest = leaf(arguments)
    known = {option for parameter in meant.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= known | {"--help"}, command


def test_the_table_of_stages_names_no_other() -> None:
    """`ctl spec list` knows all: a stage of somebody's own needs no row."""
    table = (ROOT / "docs" / "concepts.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert rows and rows <= {kind for kind, cls in SPECS.items() if hasattr(cls, "stage")}


def test_the_documented_corpus_has_the_documented_name(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "data.md").read_text()
    script, name = re.search(r"ctl run (\S+).*?ctl corpus report (\S+)", guide, re.DOTALL).groups()  # type: ignore[union-attr]
    assert load_script(ROOT / script).name == name
