"""What a program must not do, it cannot, and nothing of it is left: no process, no file."""

from __future__ import annotations

import os
import socket
import textwrap
from pathlib import Path

import pytest

from cluster.core.errors import NotReadyError
from pipelines.stages.evaluation.sandbox import Limits, Verdict, require, run

SHORT = Limits(cpu_seconds=1)


@pytest.fixture(scope="module", autouse=True)
def _isolated() -> None:
    try:
        require(Limits())
    except NotReadyError as error:
        pytest.skip(str(error))


def verdict(program: str, limits: Limits = SHORT) -> Verdict:
    return run(textwrap.dedent(program), limits)


def marked(mark: str) -> list[int]:
    """Processes of this machine whose name is the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == mark:
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


NAMED = """
import ctypes, os
ctypes.CDLL(None).prctl(15, b"{}")
"""


def test_what_comes_to_its_end_passes() -> None:
    assert verdict("import math, json, hashlib\nassert math.sqrt(4) == 2") == Verdict(True)
    assert verdict("open('own', 'w').write('x')\nassert open('own').read() == 'x'").passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("import sys; sys.exit()", "SystemExit"),
        ("import os; os._exit(0)", "ended before"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended before"),
        ("import os\nif os.fork(): os._exit(0)", "ended before"),
        ("def (", "SyntaxError"),
        ("x = [0] * (1 << 28)", "MemoryError"),
        ("while True: pass", "ended before"),
        ("import os; os.setuid(0)", "PermissionError"),
        ("import ctypes; assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0", "AssertionError"),
        ("import os; os.listdir('/proc')", "FileNotFoundError"),
    ],
)
def test_what_does_not_fails(program: str, reason: str) -> None:
    found = verdict(program)
    assert not found.passed
    assert found.reason.startswith(reason)


def test_one_that_waits_is_stopped() -> None:
    program = NAMED.format("tl-waits") + "import time; time.sleep(1000)"
    assert verdict(program, Limits(wall_seconds=3)) == Verdict(False, "timed out")
    assert not marked("tl-waits")


def test_a_fork_bomb_is_bounded_and_gone() -> None:
    bomb = """
    import os, time
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
                time.sleep(1000)
        except OSError:
            break
    assert False, "no more"
    """
    found = verdict(NAMED.format("tl-bomb") + textwrap.dedent(bomb))
    assert found == Verdict(False, "AssertionError: no more")
    assert not marked("tl-bomb")


def test_files_outside_cannot_be_written_or_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for program in (
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"open({str(tmp_path / 'secret')!r})",
        "open('/usr/lib/new', 'w')",
        "open('/new', 'w')",
        "import os; os.remove('/usr/bin/env')",
    ):
        assert not verdict(program).passed
    assert verdict("open('/tmp/tl-left-behind', 'w').write('x')").passed  # a /tmp of its own
    assert not Path("/tmp/tl-left-behind").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert not verdict("open('big', 'wb').write(bytes(1 << 25))").passed
    assert not verdict("for i in range(100): open(str(i), 'wb').write(bytes(1 << 20))").passed


def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = verdict(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
    assert found.reason.startswith("OSError")


def test_the_environment_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_SECRET", "x")
    assert verdict("import os; assert 'TL_SECRET' not in os.environ").passed
    assert os.environ["TL_SECRET"] == "x"


def test_without_namespaces_only_on_request() -> None:
    """`process`: limits and a verdict, and a working folder that is removed."""
    limits = Limits(cpu_seconds=1, isolation="process")
    assert verdict("open('own', 'w').write('x')", limits).passed
    assert not verdict("import os; os._exit(0)", limits).passed
    assert not verdict("while True: pass", limits).passed
    assert verdict("x = [0] * (1 << 28)", limits).reason.startswith("MemoryError")
