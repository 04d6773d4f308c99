"""`ctl serve keys`: who may use the endpoints that ask for keys."""

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.lazy import group
from cluster.cli.output import AsJson, print_json, print_table

if TYPE_CHECKING:
    from serving.keys.administration import Administration

keys = group("Keys of endpoints with endpoint.access.keys: make, list, revoke, and see what they used.")

SECONDS = {"m": 60, "h": 3600, "d": 86_400}

Database = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="TRUNKLINE_KEYS",
        help="As endpoint.access.database: a file, or postgresql://USER@HOST/NAME [keys.sqlite in the Trunkline home].",
    ),
]
Named = Annotated[str, typer.Argument(help="A key's id or name.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is called: whose it is, or for what.")],
    endpoint: Annotated[list[str] | None, typer.Option(help="Endpoint that it is for; may be repeated [all].")] = None,
    model: Annotated[list[str] | None, typer.Option(help="`model` that it may ask for; may be repeated [all].")] = None,
    expires: Annotated[str, typer.Option(metavar="30d", help="How long it counts: 90m, 8h, 30d [for ever].")] = "",
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    requests_per_day: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Of prompts and answers.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(min=1, help="Of prompts and answers.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Money a month, at the endpoints' prices.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="answers, or metrics for who reads the figures of all keys; may be repeated [answers]."),
    ] = None,
    database: Database = "",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: only a hash of it is kept. Minutes, days and months are those of UTC."""
    from serving.keys.administration import Wanted
    from serving.keys.key import NANO

    given = {
        "requests_per_minute": requests_per_minute,
        "requests_per_day": requests_per_day,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
    }
    key, secret = _administration(database).create(
        Wanted(
            name,
            tuple(endpoint or ()),
            tuple(model or ()),
            _seconds(expires),
            {name: quota for name, quota in given.items() if quota is not None},
            None if budget is None else round(budget * NANO),
            _scopes(scope),
        )
    )
    if as_json:
        print_json({"id": key.id, "name": key.name, "key": secret})
        return
    print(secret)
    print(f"key {key.id} ({key.name}): keep it now, nothing can show it again", file=sys.stderr)


@keys.command("list")
def list_(database: Database = "", as_json: AsJson = False) -> None:
    """List the keys, without their secrets."""
    import time

    import msgspec

    now = time.time()
    found = _administration(database).list_keys()
    if as_json:
        rows = [msgspec.to_builtins(key) | {"state": key.ended(now) or "valid"} for key in found]
        print_json([{name: value for name, value in row.items() if name != "digest"} for row in rows])
        return
    headings = ("id", "name", "state", "for", "endpoints", "models", "expires", "last used", "quotas")
    print_table(
        headings,
        [
            (
                key.id,
                key.name,
                key.ended(now) or "valid",
                ", ".join(key.scopes),
                ", ".join(key.endpoints) or "all",
                ", ".join(key.models) or "all",
                _when(key.expires_at),
                _when(key.used_at),
                _quotas(key),
            )
            for key in found
        ],
        "No keys.",
    )


@keys.command()
def revoke(named: Named, database: Database = "") -> None:
    """End a key: from the next request on no endpoint takes it. Answers that have begun are finished."""
    key = _administration(database).revoke(named)
    print(f"{key.id} ({key.name}) is revoked")


@keys.command()
def usage(
    named: Annotated[str | None, typer.Argument(help="A key's id or name [all].", show_default=False)] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="Of how many days (UTC), today included.")] = 30,
    database: Database = "",
    as_json: AsJson = False,
) -> None:
    """Show what keys have used: requests, tokens, and what they cost."""
    administration = _administration(database)
    only = administration.find(named).id if named else None
    found = [row for row in administration.usage(days) if only in (None, row["key_id"])]
    for row in found:
        row["cost"] = _money(row.pop("cost_nano"))
    if as_json:
        print_json(found)
        return
    names = ("key_id", "name", "endpoint", "requests", "prompt_tokens", "completion_tokens", "cost")
    print_table(
        ("id", "name", "endpoint", "requests", "prompt tokens", "answer tokens", "cost"),
        [[row[name] for name in names] for row in found],
        "Nothing was used.",
    )


@keys.command()
def log(
    named: Annotated[str | None, typer.Argument(help="A key's id or name [all].", show_default=False)] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="How many requests.")] = 50,
    database: Database = "",
    as_json: AsJson = False,
) -> None:
    """Show the newest requests of keys. One without a status has not ended, or its replica was killed."""
    administration = _administration(database)
    found = administration.requests(last, administration.find(named).id if named else None)
    if as_json:
        print_json(found)
        return
    names = ("request_id", "key_id", "endpoint", "model", "path", "status", "prompt_tokens", "completion_tokens")
    print_table(
        ("when", "request", "key", "endpoint", "model", "path", "status", "prompt tokens", "answer tokens", "seconds"),
        [
            [_when(row["asked_at"]), *("" if row[name] is None else row[name] for name in names), _took(row)]
            for row in found
        ],
        "No requests.",
    )


@keys.command()
def audit(
    last: Annotated[int, typer.Option("--last", min=1, help="How many changes.")] = 50,
    database: Database = "",
    as_json: AsJson = False,
) -> None:
    """Show who made and revoked keys."""
    found = _administration(database).audits(last)
    if as_json:
        print_json(found)
        return
    rows = [(_when(row["done_at"]), row["action"], row["key_id"], row["actor"], row["details"]) for row in found]
    print_table(("when", "what", "key", "by", "details"), rows, "No changes.")


def _administration(database: str) -> "Administration":
    from cluster.core.specs.access import check_database
    from serving.keys.administration import Administration

    check_database(database, "--database")
    return Administration(database)


def _seconds(text: str) -> int | None:
    from cluster.core.errors import UsageError

    if not text:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,8})([mhd])", text)
    if not found:
        raise UsageError(f"--expires {text}: no length of time", "Write 90m, 8h or 30d.")
    return int(found[1]) * SECONDS[found[2]]


def _scopes(given: list[str] | None) -> tuple[str, ...]:
    from cluster.core.errors import UsageError, nearest
    from serving.keys.key import ANSWERS, SCOPES

    for scope in given or ():
        if scope not in SCOPES:
            raise UsageError(f"--scope {scope}: there is none", nearest(scope, list(SCOPES)))
    return tuple(dict.fromkeys(given or (ANSWERS,)))


def _when(seconds: float | None) -> str:
    from datetime import UTC, datetime

    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _money(nano: int) -> float:
    from serving.keys.key import NANO

    return nano / NANO


def _took(row: dict[str, Any]) -> str:
    return "" if row["duration_seconds"] is None else f"{row['duration_seconds']:.3f}"


def _quotas(key: Any) -> str:
    from serving.keys.key import QUOTAS

    told = [f"{getattr(key, name)} {name.replace('_', ' ')}" for name in QUOTAS if getattr(key, name) is not None]
    return ", ".join(told if key.budget_nano is None else [*told, f"{_money(key.budget_nano):g} a month"])
