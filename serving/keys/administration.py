"""Keys as their administrator handles them: made, listed, revoked; what they used; and who did what (the audit log)."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from cluster.core.errors import InputError, nearest
from serving.keys.database import Database, Rows, Steps, database_at, place
from serving.keys.key import ANSWERS, LISTS, QUOTAS, Key, digest, new_secret, written
from serving.keys.ledger import DAY

T = TypeVar("T")

FIELDS = Key.__struct_fields__
INSERT = f"""INSERT INTO keys ({", ".join(FIELDS)}, told_month)
    VALUES ({", ".join(f"${n}" for n in range(1, len(FIELDS) + 1))}, 0)"""
AUDIT = "INSERT INTO audit (done_at, action, key_id, actor, details) VALUES ($1, $2, $3, $4, $5)"
USAGE = """SELECT meter.key_id, keys.name, meter.endpoint, SUM(meter.requests) AS requests,
    SUM(meter.prompt_tokens) AS prompt_tokens, SUM(meter.completion_tokens) AS completion_tokens,
    SUM(meter.cost_nano) AS cost_nano FROM meter JOIN keys ON keys.id = meter.key_id WHERE meter.day_at >= $1
    GROUP BY meter.key_id, keys.name, meter.endpoint ORDER BY keys.name, meter.key_id, meter.endpoint"""
REQUESTS = "SELECT * FROM requests ORDER BY asked_at DESC LIMIT $1"
REQUESTS_OF = "SELECT * FROM requests WHERE key_id = $2 ORDER BY asked_at DESC LIMIT $1"
AUDITS = "SELECT * FROM audit ORDER BY done_at DESC LIMIT $1"


@dataclass(frozen=True)
class Wanted:
    """What a new key may do. No `endpoints` or `models` are all; quotas by their names (key.py), those given. `scopes`:
    answers, the figures of /metrics, or both."""

    name: str
    endpoints: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    lifetime_seconds: int | None = None
    quotas: dict[str, int] | None = None
    budget_nano: int | None = None
    scopes: tuple[str, ...] = (ANSWERS,)


class Administration:
    """The keys in one database (`endpoint.access.database`)."""

    def __init__(self, database: str) -> None:
        self._place = place(database)

    def create(self, wanted: Wanted) -> tuple[Key, str]:
        """Make a key: what is kept of it, and the key itself, which nothing can show again.

        Raises InputError where a key that counts has the name.
        """
        now = int(time.time())
        key_id, secret = new_secret()
        quotas = dict.fromkeys(QUOTAS) | (wanted.quotas or {})
        key = Key(
            id=key_id,
            digest=digest(secret),
            name=wanted.name,
            endpoints=list(wanted.endpoints),
            models=list(wanted.models),
            created_at=now,
            expires_at=now + wanted.lifetime_seconds if wanted.lifetime_seconds else None,
            revoked_at=None,
            used_at=None,
            budget_nano=wanted.budget_nano,
            scopes=list(wanted.scopes),
            **quotas,
        )

        def steps() -> Steps[None]:
            for row in (yield "SELECT * FROM keys WHERE name = $1", (wanted.name,)):
                if not (other := Key.of(row)).ended(now):
                    raise InputError(f"key {other.id} is called {wanted.name!r} already", "Give another name.")
            values = msgspec.structs.asdict(key)
            values |= {name: msgspec.json.encode(values[name]).decode() for name in LISTS}
            yield INSERT, [values[name] for name in FIELDS]
            told = {name: value for name, value in values.items() if name != "digest" and value not in (None, "[]")}
            yield AUDIT, _audit("create", key_id, told)

        self._do(lambda database: database.run(steps()))
        return key, written(key_id, secret)

    def list_keys(self) -> list[Key]:
        """All keys ever made, the oldest first."""
        rows = self._read("SELECT * FROM keys ORDER BY created_at, id")
        return [Key.of(row) for row in rows]

    def find(self, named: str) -> Key:
        """The key with an id or a name. Raises InputError where there is none, or several have the name."""
        keys = self.list_keys()
        found = [key for key in keys if key.id == named] or [key for key in keys if key.name == named]
        found = [key for key in found if not key.ended(time.time())] or found
        if not found:
            known = [name for key in keys for name in (key.name, key.id)]
            raise InputError(f"no key is called {named!r}", nearest(named, known) if known else "There are none.")
        if len(found) > 1:
            raise InputError(
                f"{len(found)} keys are called {named!r}", f"Give an id: {', '.join(k.id for k in found)}."
            )
        return found[0]

    def revoke(self, named: str) -> Key:
        """End a key at once: no endpoint takes it from the next request on."""
        key = self.find(named)

        def steps() -> Steps[None]:
            yield "UPDATE keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", (key.id, int(time.time()))
            yield AUDIT, _audit("revoke", key.id, {"name": key.name})

        self._do(lambda database: database.run(steps()))
        return key

    def usage(self, days: int) -> list[dict[str, Any]]:
        """What each key has used of each endpoint in the last days (UTC), today included."""
        first = int(time.time()) // DAY * DAY - (days - 1) * DAY
        counts = ("requests", "prompt_tokens", "completion_tokens", "cost_nano")
        return [dict(row) | {name: int(row[name]) for name in counts} for row in self._read(USAGE, first)]

    def requests(self, most: int, key_id: str | None = None) -> list[dict[str, Any]]:
        """The newest entries of the request log, of one key or of all."""
        rows = self._read(REQUESTS_OF, most, key_id) if key_id else self._read(REQUESTS, most)
        return [dict(row) for row in rows]

    def audits(self, most: int) -> list[dict[str, Any]]:
        """The newest changes of keys: when, what, which key, by whom."""
        rows = self._read(AUDITS, most)
        return [dict(row) | {"details": msgspec.json.decode(row["details"])} for row in rows]

    def _read(self, sql: str, *values: Any) -> Rows:
        return self._do(lambda database: database.read(sql, *values))

    def _do(self, work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        async def opened() -> T:
            database = database_at(self._place)
            await database.open()
            try:
                return await work(database)
            finally:
                await database.close()

        with ThreadPoolExecutor(1) as pool:  # whose thread has no event loop yet, as a notebook's has
            return pool.submit(asyncio.run, opened()).result()


def _audit(action: str, key_id: str, details: dict[str, Any]) -> tuple[Any, ...]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in a container
        user = str(os.getuid())
    actor = f"{user}@{socket.gethostname()}"
    return time.time(), action, key_id, actor, msgspec.json.encode(details).decode()
