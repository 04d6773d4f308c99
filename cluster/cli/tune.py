"""`ctl tune`: look at what tuning will learn."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.lazy import group
from cluster.cli.options import StoreRoot
from cluster.cli.output import AsJson, print_json

if TYPE_CHECKING:
    from pipelines.stages.tuning.preview import Sample

tune = group("Tuning: see what is learned.")

Data = Annotated[str, typer.Argument(help="Conversations: an artifact of the store, or a file.", show_default=False)]
Model = Annotated[str, typer.Option("--model", "-m", help="An artifact, or a folder with a tokenizer.")]


@tune.callback()
def root() -> None:
    """Tuning: see what is learned before it is."""


@tune.command()
def preview(
    data: Data,
    model: Model,
    template: Annotated[str, typer.Option("--template", "-t", help="As sft.template; empty: the model's own.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Conversations to show.")] = 3,
    most: Annotated[int, typer.Option("--of", min=1, help="Conversations to look at for the figures.")] = 200,
    split: Annotated[str, typer.Option("--split", help="train or heldout, of an artifact.")] = "train",
    format: Annotated[str, typer.Option("--format", help="As conversations.format, of a file.")] = "auto",
    ids: Annotated[bool, typer.Option("--ids", help="Show the id of every token.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page to a file, too.", show_default=False)
    ] = None,
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show conversations as a model sees them, and which of the tokens it learns."""
    import dataclasses
    from itertools import islice

    from cluster.core.errors import UsageError, nearest
    from cluster.core.storage.store import Store
    from pipelines.stages.tuning import preview as previews
    from pipelines.stages.tuning.conversations import SPLITS
    from pipelines.stages.tuning.formats import FORMATS
    from pipelines.stages.tuning.templates import TEMPLATES

    for option, value, known in (
        ("--split", split, list(SPLITS)),
        ("--format", format, list(FORMATS)),
        ("--template", template, ["", *TEMPLATES]),
    ):
        if value not in known:
            raise UsageError(
                f"{option} {value}: there is no such {option[2:]}", nearest(value, [k for k in known if k])
            )
    opened = Store(store)
    tokenizer = previews.tokenizer_of(model, opened, template)
    found = previews.preview(tokenizer, islice(previews.rows_of(data, opened, split, format), max(most, count)), count)
    if html:
        html.write_text(previews.page(found, data, model, template), encoding="utf-8")
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    for sample in found.samples:
        _print(sample, ids)
    print("; ".join(f"{name} {value}" for name, value in previews.figures(found)))
    for reason, number in found.refused.items():
        print(f"refused {number}: the chat template {reason}")
    if html:
        print(f"The page: {html}")


def _print(sample: "Sample", ids: bool) -> None:
    """An example: what is learned stands on green; where there are no colours, in brackets."""
    from rich.text import Text

    from cluster.control.screen.terminal import console, styled

    total = sum(len(piece.ids) for piece in sample.pieces)
    learned = sum(len(piece.ids) for piece in sample.pieces if piece.learned)
    brackets, shown, within = not styled(), Text(), False
    for piece in sample.pieces:
        if brackets and piece.learned != within:
            shown.append("⟦" if piece.learned else "⟧")
        within = piece.learned
        style = " ".join(s for s, on in (("black on green", piece.learned), ("bold cyan", piece.control)) if on)
        text = piece.text.replace("\x1b", "␛")  # no text of a data set commands a terminal
        shown.append(text, "bold black on green" if piece.learned and piece.control else style)
        if ids:
            shown.append(f"({' '.join(map(str, piece.ids))})", "dim")
    if brackets and within:
        shown.append("⟧")
    screen = console(soft_wrap=True)
    screen.print(Text(f"{sample.id}: {total} tokens, {learned} learned", "bold"))
    screen.print(shown)
    screen.print()
