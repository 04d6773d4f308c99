"""`ctl serve top`: what endpoints do just now."""

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.options import KeyFile, key_in
from cluster.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from serving.watching.top import Figures, Watched

SERVE_PATH = "/api/serve/applications/"
NOTHING = "No endpoints."


def top(
    urls: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL]...", help="Endpoints [those of the running cluster].", show_default=False),
    ] = None,
    key_file: KeyFile = None,
    once: Annotated[bool, typer.Option("--once", help="Look once: at all that happened since replicas began.")] = False,
    every_seconds: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between looks.")] = 2.0,
    as_json: AsJson = False,
) -> None:
    """Show what endpoints do just now, from their /metrics: requests, tokens, TTFT, TPOT, cache hits, refusals.

    Percentiles, cache hits, 429 and 5xx are of the time since the look before. Ctrl-C ends it.
    """
    from cluster.core.signals import Terminated
    from serving.watching.top import Watched, ask, headings, plain, rows

    fetch = ask(key_in(key_file))
    watched = [Watched(url, fetch) for url in urls or _running()]
    if not watched:
        print("[]" if as_json else NOTHING)
        return
    looks = _looks(watched, every_seconds)
    try:
        if as_json and once:
            print_json(plain(next(looks)))
        elif as_json:
            for found in looks:
                print(json.dumps(plain(found)), flush=True)
        elif once:
            found = next(looks)
            print_table(headings(found), rows(found), NOTHING)
        else:
            _show(looks, headings, rows)
    except Terminated:
        raise
    except KeyboardInterrupt:
        return


def _running() -> list[str]:
    """The addresses of the endpoints of the running cluster."""
    from cluster.control.dashboard import dashboard_url, request
    from serving.endpoints import from_details

    return [endpoint.base_url for endpoint in from_details(request("GET", dashboard_url(), SERVE_PATH))]


def _looks(watched: "list[Watched]", every_seconds: float) -> "Iterator[list[Figures]]":
    """What the endpoints do, again and again."""
    while True:
        yield [endpoint.look() for endpoint in watched]
        time.sleep(every_seconds)


def _show(looks: "Iterator[list[Figures]]", headings: Any, rows: Any) -> None:
    """A table that is drawn anew at each look."""
    from rich.live import Live

    from cluster.cli.output import make_table
    from cluster.control.screen.terminal import console

    found = next(looks)
    with Live(make_table(headings(found), rows(found)), console=console(), auto_refresh=False) as live:
        for found in looks:
            live.update(make_table(headings(found), rows(found)), refresh=True)
