"""Databases for keys: a file, and a PostgreSQL of Debian's package, on loopback in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.local_cluster import free_port

PASSWORD = "a password, which no log may show"


def binaries() -> Path | None:
    """Where PostgreSQL's programs are: on the path, or where Debian puts them."""
    if found := shutil.which("postgres"):
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@dataclass
class Server:
    """A running PostgreSQL."""

    bin: Path
    folder: Path
    port: int
    owner: dict[str, Any]

    def program(self, name: str, *arguments: str) -> None:
        # Not captured: the server that pg_ctl leaves running would hold a pipe open.
        with (self.folder / f"{name}.log").open("w") as log:
            done = subprocess.run(
                [str(self.bin / name), *arguments], stdout=log, stderr=log, timeout=120, check=False, **self.owner
            )
        assert done.returncode == 0, (self.folder / f"{name}.log").read_text()

    def url(self, database: str) -> str:
        return f"postgresql://keeper@127.0.0.1:{self.port}/{database}"

    def make(self, database: str) -> str:
        """An empty database, and its URL."""
        import asyncpg

        async def create() -> None:
            connection = await asyncpg.connect(self.url("postgres"))
            await connection.execute(f"CREATE DATABASE {database}")
            await connection.close()

        asyncio.run(create())
        return self.url(database)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server that takes connections with a password only."""
    found = binaries()
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="trunkline-postgres-"))
    owner: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": folder}
    server = Server(found, folder, free_port(), owner)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    data = str(folder / "data")
    try:
        login = ("--auth", "scram-sha-256", "--username", "keeper", "--pwfile", str(folder / "password"))
        server.program("initdb", "-D", data, "--encoding", "UTF8", "--locale", "C", "--no-sync", *login)
        options = f"-p {server.port} -h 127.0.0.1 -k {folder} -c fsync=off"
        server.program("pg_ctl", "start", "-w", "-D", data, "-o", options, "-l", str(folder / "server.log"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGPASSWORD", PASSWORD)
            yield server
        server.program("pg_ctl", "stop", "-m", "immediate", "-D", data)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, as a spec names it."""
    if request.param == "sqlite":
        return str(tmp_path / "keys.sqlite")
    server: Server = request.getfixturevalue("postgres")
    return server.make(f"keys_{os.urandom(6).hex()}")
