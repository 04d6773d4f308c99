"""Where keys, quotas and logs are kept: a file of SQLite, or PostgreSQL, behind one small interface.

A transaction is written once, as a generator that yields statements and is sent their rows: both databases run it. The
SQL is what both understand, with `$1` for the first value. SQLite's part of a request takes less time than a change of
thread, so it runs in the event loop, where nothing it does waits: neither for a lock nor for the disk.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cluster.core.errors import NotReadyError
from cluster.core.home import home
from cluster.core.specs.access import is_postgres
from serving.keys.functions import FUNCTIONS, RESERVE, SETTLE
from serving.keys.tables import ADDED_COLUMN, TABLES

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")
Statement = tuple[str, Sequence[Any]]
Together = list[Statement]  # of which none needs another's effect or rows: one way to a server and back
Rows = Sequence[Mapping[str, Any]]
Steps = Generator[Statement | Together, Rows, T]  # a transaction that ends with a T

FILE = "keys.sqlite"
WAIT_SECONDS = 5.0  # for a lock, a connection, a statement
RETRY_SECONDS = 0.002
CHECKPOINT_SECONDS = 5.0
CONNECTIONS = 8  # of a replica to PostgreSQL
LOCKED = f"SELECT pg_advisory_xact_lock({0x7472756E6B})"  # which processes that make the tables at once take in turns
HAS_COLUMN_HERE = "SELECT 1 FROM pragma_table_info('keys') WHERE name = 'scopes'"
HAS_COLUMN = "SELECT 1 FROM information_schema.columns WHERE table_name = 'keys' AND column_name = 'scopes'"
HAS_FUNCTIONS = f"SELECT 1 WHERE to_regproc('{RESERVE}') IS NOT NULL AND to_regproc('{SETTLE}') IS NOT NULL"


class DatabaseFailed(NotReadyError):
    """The database does not answer, or refuses."""


class Database(Protocol):
    """What every database here can do. Raises DatabaseFailed."""

    async def open(self) -> None:
        """Connect, and make the tables that are not there."""

    async def close(self) -> None: ...

    async def read(self, sql: str, *values: Any) -> Rows:
        """The rows of one statement that changes nothing."""

    async def run(self, steps: Steps[T]) -> T:
        """Run a transaction: all of it or, where it raises, nothing."""

    async def call(self, function: str, *values: Any) -> bool:
        """What a function of functions.py returns, a transaction of its own; False where there are none."""


def place(database: str) -> str:
    """The database of a spec; empty is a file in the Trunkline home."""
    return database if is_postgres(database) else str(Path(database or home() / FILE).expanduser().absolute())


def database_at(where: str, *, durable: bool = True) -> Database:
    """The database at a `place`. `durable` survives a power cut to the last transaction, which costs a wait for the
    disk each time; else the last second of usage may be forgotten, never a part of a transaction."""
    return Postgres(where, durable) if is_postgres(where) else Sqlite(where, durable)


class Sqlite:
    """A file on this machine, for all its replicas."""

    def __init__(self, path: str, durable: bool) -> None:
        self.path, self.durable = Path(path), durable
        self._checkpoints: asyncio.Task[None] | None = None

    async def open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self._create()
            self._connection = self._connect()
            if not await self.read("SELECT 1 FROM sqlite_master WHERE name = 'keys'"):
                await self.run(_make(TABLES))
            if not await self.read(HAS_COLUMN_HERE):
                await self.run(_add_column(HAS_COLUMN_HERE))
        except (OSError, sqlite3.Error) as error:
            raise DatabaseFailed(f"{self.path}: {error}", "Name another file as endpoint.access.database.") from None
        if not self.durable:
            self._checkpoints = asyncio.create_task(self._checkpoint())

    def _create(self) -> None:
        """Make the file, nobody else's to read. It is closed before it has its name: a process that closes a file of
        SQLite's beside its connections drops their locks, and then writes over what others write."""
        partial = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            with suppress(FileExistsError):  # of two at once one wins, and both use its file
                os.link(partial, self.path)
        finally:
            partial.unlink()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")  # who reads waits for nobody
        connection.execute(f"PRAGMA synchronous = {'FULL' if self.durable else 'NORMAL'}")
        connection.execute("PRAGMA busy_timeout = 0")
        if not self.durable:
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # it waits for the disk: see `_checkpoint`
        return connection

    async def close(self) -> None:
        if self._checkpoints:
            self._checkpoints.cancel()
            with suppress(asyncio.CancelledError):
                await self._checkpoints
        self._connection.close()

    async def read(self, sql: str, *values: Any) -> Rows:
        try:
            return self._connection.execute(_questioned(sql), values).fetchall()
        except sqlite3.Error as error:
            raise DatabaseFailed(f"{self.path}: {error}") from None

    async def run(self, steps: Steps[T]) -> T:
        try:
            await self._begin()
            try:
                found = self._through(steps)  # without a wait in it, so that no other transaction gets between
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            return found
        except sqlite3.Error as error:
            raise DatabaseFailed(f"{self.path}: {error}") from None

    async def call(self, function: str, *values: Any) -> bool:
        return False  # to this process there is no way that could be shorter

    async def _begin(self) -> None:
        """Take the file's write lock, which other processes hold for less than a millisecond each."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(RETRY_SECONDS * random.random())

    def _through(self, steps: Steps[T]) -> T:
        rows: Rows | None = None
        try:
            while True:
                given = next(steps) if rows is None else steps.send(rows)
                for sql, values in given if isinstance(given, list) else [given]:
                    rows = self._connection.execute(_questioned(sql), values).fetchall()
        except StopIteration as end:
            return end.value

    async def _checkpoint(self) -> None:
        """Bring what is written into the file itself, in a thread, as this waits for the disk."""
        connection = self._connect()
        try:
            while True:
                await asyncio.sleep(CHECKPOINT_SECONDS)
                await asyncio.to_thread(connection.execute, "PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            connection.close()


class Postgres:
    """A server for the replicas of all machines."""

    def __init__(self, url: str, durable: bool) -> None:
        self.url, self.durable = url, durable

    async def open(self) -> None:
        import asyncpg

        self._failures = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
        settings = {"application_name": "trunkline", "synchronous_commit": "on" if self.durable else "off"}
        try:
            self._pool: asyncpg.Pool = await asyncpg.create_pool(
                self.url,
                min_size=1,
                max_size=CONNECTIONS,
                timeout=WAIT_SECONDS,
                command_timeout=WAIT_SECONDS,
                server_settings=settings,
                reset=_keep,
            )
            if not await self.read("SELECT 1 WHERE to_regclass('keys') IS NOT NULL"):
                await self.run(_make(TABLES, LOCKED))
            if not await self.read(HAS_COLUMN):
                await self.run(_add_column(HAS_COLUMN, LOCKED))
            if not await self.read(HAS_FUNCTIONS):
                await self.run(_make(FUNCTIONS, LOCKED))
        except (*self._failures, ValueError) as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> DatabaseFailed:
        told = str(error) or type(error).__name__
        return DatabaseFailed(f"PostgreSQL (endpoint.access.database): {told}", "See PGPASSWORD, and the server's log.")

    async def close(self) -> None:
        await self._pool.close()

    async def read(self, sql: str, *values: Any) -> Rows:
        try:
            return await self._pool.fetch(sql, *values, timeout=WAIT_SECONDS)
        except self._failures as error:
            raise self._failed(error) from None

    async def call(self, function: str, *values: Any) -> bool:
        numbers = ", ".join(f"${number}" for number in range(1, len(values) + 1))
        try:
            found = await self._pool.fetchval(f"SELECT {function}({numbers})", *values, timeout=WAIT_SECONDS)
        except self._failures as error:
            raise self._failed(error) from None
        return bool(found)

    async def run(self, steps: Steps[T]) -> T:
        try:
            async with self._pool.acquire(timeout=WAIT_SECONDS) as connection, connection.transaction():
                rows: Rows | None = None
                try:
                    while True:
                        given = next(steps) if rows is None else steps.send(rows)
                        sql, values = _joined(given) if isinstance(given, list) else given
                        rows = await connection.fetch(sql, *values)
                except StopIteration as end:
                    return end.value
        except self._failures as error:
            raise self._failed(error) from None


async def _keep(_: asyncpg.Connection) -> None:
    """No transaction here leaves anything in its connection that a reset would have to remove."""


def _joined(statements: Together) -> Statement:
    """Changes of different rows as one statement of PostgreSQL, their values numbered on."""
    parts: list[str] = []
    values: list[Any] = []
    for number, (sql, own) in enumerate(statements):
        parts.append(f"part{number} AS ({_numbered(sql, len(values))})")
        values += own
    return f"WITH {', '.join(parts)} SELECT 1", values


@cache
def _numbered(sql: str, after: int) -> str:
    return re.sub(r"\$(\d+)", lambda found: f"${int(found[1]) + after}", sql)


@cache
def _questioned(sql: str) -> str:
    """`$1` as SQLite writes it."""
    return sql.replace("$", "?")


def _make(parts: Sequence[str], first: str = "") -> Steps[None]:
    for sql in (*filter(None, [first]), *parts):
        yield sql, ()


def _add_column(has: str, first: str = "") -> Steps[None]:
    """Bring a table of keys of an older project up to date."""
    if first:
        yield first, ()
    if not (yield has, ()):
        yield ADDED_COLUMN, ()
