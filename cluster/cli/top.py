"""`ctl serve top`: what endpoints do just now."""

import time
from typing import Annotated, Any, NoReturn

import typer

from cluster.cli.options import KeyFile, key_in
from cluster.cli.output import AsJson, print_json, print_table

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

    TTFT and TPOT are p50 / p95 / p99. They, cache hits, 429 and 5xx are of the time since the look before. Ctrl-C ends
    it.
    """
    from serving.watching.top import HEADINGS, Watched, ask, plain, row

    fetch = ask(key_in(key_file))
    watched = [Watched(url, fetch) for url in urls or _running()]

    def look() -> list[Any]:
        return [endpoint.look() for endpoint in watched]

    if once:
        found = look()
        if as_json:
            print_json(plain(found))
        else:
            print_table(HEADINGS, [row(each) for each in found], NOTHING)
        return
    if not watched:
        print(NOTHING)
        return
    if as_json:
        _tell(look, plain, every_seconds)
    _show(look, HEADINGS, row, every_seconds)


def _running() -> list[str]:
    """The addresses of the endpoints of the running cluster."""
    from cluster.control.dashboard import dashboard_url, request
    from serving.endpoints import from_details

    return [endpoint.base_url for endpoint in from_details(request("GET", dashboard_url(), SERVE_PATH))]


def _tell(look: Any, plain: Any, every_seconds: float) -> NoReturn:
    """A line of JSON a look."""
    import json

    while True:
        print(json.dumps(plain(look())), flush=True)
        time.sleep(every_seconds)


def _show(look: Any, headings: Any, row: Any, every_seconds: float) -> NoReturn:
    """A table that is drawn anew at each look."""
    from rich.live import Live

    from cluster.cli.output import make_table
    from cluster.control.screen.terminal import console

    with Live(make_table(headings, map(row, look())), console=console(), auto_refresh=False) as live:
        while True:
            time.sleep(every_seconds)
            live.update(make_table(headings, map(row, look())), refresh=True)
