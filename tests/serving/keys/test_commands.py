"""`ctl serve keys` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.command import ctl
from tests.conftest import ROOT


@pytest.mark.heavy
def test_a_key_is_made_listed_and_ended(tmp_path: Path) -> None:
    database = str(tmp_path / "own" / "keys.sqlite")

    def keys(*arguments: str, code: int = 0) -> str:
        done = ctl("serve", "keys", *arguments, TRUNKLINE_KEYS=database)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    options = ("--endpoint", "chat", "--expires", "30d", "--tokens-per-day", "5000", "--budget", "2.5")
    key = keys("create", "alice", *options)
    assert key.startswith("tk_") and key.count("\n") == 1  # nothing else: for $(ctl serve keys create alice)
    key_id = key.split("_")[1]
    (listed,) = json.loads(keys("list", "--json"))
    assert (listed["id"], listed["name"], listed["state"]) == (key_id, "alice", "valid")
    assert listed["expires_at"] - listed["created_at"] == 30 * 86_400
    assert (listed["tokens_per_day"], listed["budget_nano"], listed["endpoints"]) == (5000, 2_500_000_000, ["chat"])
    assert "digest" not in listed and key.strip() not in json.dumps(listed)
    assert "5000 tokens per day, 2.5 a month" in keys("list")
    assert "already" in keys("create", "alice", code=3)
    assert "Did you mean 'alice'?" in keys("revoke", "alcie", code=3)
    assert keys("usage", "alice") == "Nothing was used.\n" and keys("log") == "No requests.\n"
    assert keys("revoke", "alice") == f"{key_id} (alice) is revoked\n"
    assert json.loads(keys("list", "--json"))[0]["state"] == "revoked"
    assert [row["action"] for row in json.loads(keys("audit", "--json"))] == ["revoke", "create"]
    keys("create", "prometheus", "--scope", "metrics")
    assert json.loads(keys("list", "--json"))[1]["scopes"] == ["metrics"] and listed["scopes"] == ["answers"]
    assert "Did you mean 'metrics'?" in keys("create", "bob", "--scope", "metric", code=2)
    assert "90m, 8h or 30d" in keys("create", "bob", "--expires", "soon", code=2)


def test_a_password_in_a_url_is_refused() -> None:
    for url in ("postgresql://a:secret@127.0.0.1/x", "postgresql://127.0.0.1/x?password=secret"):
        done = ctl("serve", "keys", "list", "--database", url)
        assert done.returncode == 3 and "PGPASSWORD" in done.stderr and "secret" not in done.stderr
        done = ctl("serve", "up", "x", "--set", "endpoint.access.keys=true", "--set", f"endpoint.access.database={url}")
        assert done.returncode == 3 and "PGPASSWORD" in done.stderr and "secret" not in done.stderr


def test_a_server_that_is_not_there_is_said() -> None:
    done = ctl("serve", "keys", "list", "--database", "postgresql://nobody@127.0.0.1:9/x")
    assert done.returncode == 4 and "endpoint.access.database" in done.stderr and "Traceback" not in done.stderr


def test_the_commands_import_nothing_heavy(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.argv = ['ctl', 'serve', 'keys', 'list', '--database', {str(tmp_path / 'keys.sqlite')!r}]\n"
        "from cluster.cli.app import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "No keys.\n"
    assert not {"ray", "torch", "pandas", "numpy", "starlette", "openai"} & set(done.stderr.split())
