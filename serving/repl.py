"""Chat in the terminal: `clear` forgets the conversation, `stop` or Ctrl-D ends it, Ctrl-C cuts an answer short."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.control.screen.terminal import console as make_console
from cluster.core.errors import TrunklineError
from cluster.core.signals import Terminated
from serving.talk import DoesNotWrite, Messages, Sampling, Talker, fitted

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console

ENDINGS = ("stop", "exit", "quit")


def chat(talker: Talker, sampling: Sampling, plugins: Sequence[str] = ()) -> None:
    """Read, answer, repeat, until the user ends it. An answer that fails is said and forgotten. `plugins` are those of
    an endpoint that are switched on."""
    console = make_console(highlight=False, soft_wrap=True)
    if plugins:
        talker.switch_on(plugins, partial(_tell, console))  # type: ignore[attr-defined]
    console.print(f"[bold]{talker.name}[/bold]  [dim]clear: forget, stop: end, Ctrl-C: cut an answer short[/dim]")
    messages: Messages = []
    while True:
        try:
            said = console.input("[bold cyan]you>[/bold cyan] ").strip()
        except EOFError:
            console.print()
            return
        except Terminated:
            raise
        except KeyboardInterrupt:
            console.print("\n[dim]stop or Ctrl-D ends the chat[/dim]")
            continue
        if said in ENDINGS:
            return
        if said == "clear":
            messages = []
            console.print("[dim]forgotten[/dim]")
        elif said:
            messages = _exchange(console, talker, [*messages, {"role": "user", "content": said}], sampling)


def _tell(console: Console, told: dict[str, Any]) -> None:
    """Show a call of a plug-in when it begins, and what came of it."""
    if told["state"] == "running":
        console.print(f"\n  {told['name']} {told['arguments']}", style="dim", markup=False, end="")
        return
    picture = told.get("image", {}).get("url", "a picture, which the page shows") if told.get("image") else ""
    console.print(f" -> {told['result']} {picture}".rstrip(), style="dim", markup=False)


def _exchange(console: Console, talker: Talker, messages: Messages, sampling: Sampling) -> Messages:
    """Stream one answer; the conversation with it, or without the question where it failed."""
    answer = ""
    try:
        kept, fitting = fitted(talker, messages, sampling)
        if forgotten := len(messages) - len(kept):
            console.print(f"[dim]the model's context is full: the oldest {forgotten} messages are forgotten[/dim]")
        messages = kept
        console.print(f"[bold green]{talker.name.rpartition('/')[2]}>[/bold green] ", end="")
        pieces: Generator[str] = talker.answer(messages, fitting)  # type: ignore[assignment]
        with closing(pieces):
            for piece in pieces:
                answer += piece
                console.print(piece, end="", markup=False)
        console.print()
    except Terminated:
        raise
    except KeyboardInterrupt:
        console.print(" [dim](cut short)[/dim]")
    except DoesNotWrite:
        raise
    except TrunklineError as error:
        console.print(f"[red]{error}[/red]")
        console.print("[dim]clear starts afresh[/dim]")
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": answer}]
