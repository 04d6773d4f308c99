"""Who may use an endpoint, and what it costs: keys, prices, origins of browsers, a certificate.

What stands here is told in Serve's own account of an endpoint, so nothing here is a secret: passwords are refused.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import parse_qs, urlsplit

from msgspec import Meta, Struct

from cluster.core.errors import SpecError

POSTGRES = ("postgresql", "postgres")
ORIGIN = re.compile(r"https?://[^/\s*]+|\*")


class Access(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may use an endpoint."""

    keys: bool = False
    """Answer only to keys of `ctl serve keys`; without it, to whoever reaches the port."""
    database: str = ""
    """Where keys, usage and logs are: a file of SQLite, or postgresql://USER@HOST/NAME with the password in PGPASSWORD
    or a passfile. Empty takes keys.sqlite in the Trunkline home."""
    input_price: Annotated[float, Meta(ge=0)] = 0.0
    """Money for a million tokens of prompts, in the currency of the keys' budgets."""
    output_price: Annotated[float, Meta(ge=0)] = 0.0
    """Money for a million tokens of answers."""
    soft_budget_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.8
    """Part of a key's budget whose spending is told to the webhook, once a month."""
    webhook: str = ""
    """URL that is told of it by POST; `$NAME` takes it from an environment variable of the replica."""
    request_log: Literal["off", "figures", "prompts"] = "figures"
    """What is kept of each request: its figures, or what was asked as well."""
    request_log_days: Annotated[int, Meta(ge=1)] = 30
    """How long that is kept."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may ask from a browser (CORS), as `https://chat.example.org`; `*` is any."""
    tls_certificate: str = ""
    """PEM file of the certificate chain, on every node: the port then speaks HTTPS."""
    tls_key: str = ""
    """PEM file of its private key."""

    def check(self) -> None:
        check_database(self.database, "endpoint.access.database")
        if self.webhook and not self.webhook.startswith(("http://", "https://", "$")):
            raise SpecError("endpoint.access.webhook: no http:// or https:// address", "Give one, or `$NAME`.")
        for origin in self.origins:
            if not ORIGIN.fullmatch(origin):
                raise SpecError(
                    f"endpoint.access.origins: {origin!r} is no origin",
                    "Write it as https://HOST[:PORT], without a path.",
                )
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise SpecError("endpoint.access: tls_certificate and tls_key go together", "Give both, or neither.")


def is_postgres(database: str) -> bool:
    return urlsplit(database).scheme in POSTGRES


def check_database(database: str, where: str) -> None:
    """Raise SpecError for what names neither a file nor PostgreSQL, or holds a password."""
    if "://" not in database:
        return
    if not is_postgres(database):
        raise SpecError(f"{where}: neither a file nor postgresql://", "Give one of them.")
    parts = urlsplit(database)
    try:
        parts.port  # noqa: B018  # read as a number here
    except ValueError:
        raise SpecError(f"{where}: no port is written so", "Write postgresql://USER@HOST:PORT/NAME.") from None
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise SpecError(
            f"{where}: a password does not belong there, where it is told to whoever asks what runs",
            "Put it into PGPASSWORD or a passfile (PGPASSFILE) on the machines.",
        )
