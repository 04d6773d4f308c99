"""What a program must not do, it cannot: harm, leave anything behind, or pass its own tests."""

from __future__ import annotations

import json
import os
import socket
import textwrap
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import NotReadyError
from cluster.core.sandbox.sandbox import Limits, Trial, Verdict, require, run
from cluster.core.sandbox.trial import decode, encode

SHORT = Limits(cpu_seconds=1)


@pytest.fixture(scope="module", autouse=True)
def _isolated() -> None:
    try:
        require(Limits())
    except NotReadyError as error:
        pytest.skip(str(error))


def verdict(program: str, limits: Limits = SHORT) -> Verdict:
    """Whether a program comes to its end: it is what defines the function, which is called then."""
    ended = "\ndef ended(): return 'so'\n"
    return run(Trial(textwrap.dedent(program) + ended, "ended", "assert ended() == 'so'"), limits)


def answered(body: str, test: str, limits: Limits = SHORT) -> Verdict:
    """The verdict on a function `f(x)` of this body."""
    solution = f"import gc, os, sys\ndef f(x):\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n"
    return run(Trial(solution, "f", test), limits)


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


FORGERS = {
    "a report in every open file": """
        for descriptor in range(64):
            try:
                os.write(descriptor, b'{"passed": true}')
            except OSError:
                pass
        os._exit(0)
    """,
    "a value that equals everything": """
        class Equal:
            def __eq__(self, other): return True
        return Equal()
    """,
    "a number that equals everything": """
        class Equal(int):
            def __eq__(self, other): return True
        return Equal(1)
    """,
    "an answer found in memory": """
        for thing in gc.get_objects():
            if 'SECRET' in repr(type(thing)) or (isinstance(thing, str) and 'SECRET' in thing):
                return 'SECRET'
        frame = sys._getframe()
        while frame:
            for value in frame.f_locals.values():
                if 'SECRE' + 'T' in repr(value):
                    return value
            frame = frame.f_back
    """,
    "the judge, attached to as by a debugger": """
        import ctypes
        libc = ctypes.CDLL(None)
        if libc.ptrace(16, os.getppid(), 0, 0) == 0:
            return 'SECRET'
        raise PermissionError('not attached')
    """,
    "the judge, killed": "os.kill(os.getppid(), 9)",
    "no assert": """
        import builtins
        builtins.AssertionError = SystemExit
        return None
    """,
    "an exit": "sys.exit(0)",
    "an exit at the end of tests": "import atexit; atexit.register(os._exit, 0); os._exit(0)",
    "an exception that lies": """
        class Lie(Exception):
            def __str__(self): os._exit(0)
        raise Lie
    """,
    "a message too long": "return 'x' * (80 << 20)",
}


@pytest.mark.parametrize("isolation", ["namespaces", "process"])
@pytest.mark.parametrize("how", FORGERS)
def test_a_pass_cannot_be_forged(how: str, isolation: Literal["namespaces", "process"]) -> None:
    limits = Limits(cpu_seconds=3, isolation=isolation)
    assert not answered(FORGERS[how], "assert f('x') == 'SECRET'", limits).passed


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), 9)", "sys.stdout.close(); os.closerange(0, 64)"])
@pytest.mark.parametrize("expected", ["Exception", "BaseException"])
def test_an_end_is_no_error_that_a_test_expects(how: str, expected: str) -> None:
    """Nor does the test's catching everything make it one, in the call that finds it or in the next."""
    caught = f"try: f(1)\nexcept {expected}: pass\n"
    assert answered(how, caught * 2) == Verdict(False, "ended before its end was reached, or by a limit")


def test_what_is_answered_is_compared() -> None:
    assert answered("return [x, (1, 2.5), {3: {x}}]", "assert f('a') == ['a', (1, 2.5), {3: {'a'}}]").passed
    assert answered("raise KeyError(x)", "try: f(1)\nexcept KeyError: pass\nelse: assert False").passed
    assert answered("return x", "assert f(1) == 2") == Verdict(False, "AssertionError: ")
    assert answered("return print", "f(1)").reason.startswith("TypeError: a value of type builtin_function")
    assert answered("return 1", "assert g(f(0)) == 2").reason.startswith("NameError")
    with_setup = Trial("def f(x): return -x", "f", "assert twice(f(1)) == -2", setup="def twice(x): return 2 * x")
    assert run(with_setup, SHORT).passed


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.frozensets(st.integers(), max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(plain)
def test_plain_values_travel_whole(value: Any) -> None:
    found = decode(json.loads(json.dumps(encode(value))))
    assert found == value and repr(type(found)) == repr(type(value))
    assert decode(json.loads(json.dumps(encode(1 << 20_000)))) == 1 << 20_000


@pytest.mark.heavy
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


@pytest.mark.heavy
def test_without_namespaces_only_on_request() -> None:
    """`process`: limits and a verdict, and a working folder that is removed."""
    limits = Limits(cpu_seconds=1, isolation="process")
    assert verdict("open('own', 'w').write('x')", limits).passed
    assert not verdict("import os; os._exit(0)", limits).passed
    assert not verdict("while True: pass", limits).passed
    assert verdict("x = [0] * (1 << 28)", limits).reason.startswith("MemoryError")
