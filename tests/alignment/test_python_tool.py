"""Python as a tool: what a program prints comes back, whatever it does, and nothing of it is left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.core.errors import NotReadyError, SpecError
from cluster.core.sandbox.sandbox import Limits, require
from cluster.core.tools.program import Program, printed
from pipelines.stages.alignment.environments.episodes import ENVIRONMENT
from pipelines.stages.alignment.environments.tools import Tools
from pipelines.stages.alignment.rewards.pool import Pool
from pipelines.stages.alignment.rewards.sample import Sample

SMALL = Program(cpu_seconds=1, wall_seconds=5.0)


@pytest.fixture(scope="module", autouse=True)
def _isolated() -> None:
    try:
        require(Limits())
    except NotReadyError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(6 * 7)", "42"),
        ("x = 6\nx * 7", "42"),
        ("None", "nothing was printed"),
        ("import sys\nprint('a')\nprint('b', file=sys.stderr)\n'c'", "a\nb\n'c'"),
        ("1 / 0", "ZeroDivisionError: division by zero (line 1)"),
        ("def f():\n    raise ValueError('no')\nprint('begun')\nf()", "begun\nValueError: no (line 2)"),
        ("x =", "SyntaxError: invalid syntax (line 1)"),
        ("raise SystemExit", "nothing was printed"),
        ("input()", "EOFError: EOF when reading a line (line 1)"),
        ("'字'", "'字'"),
        ("\udc80", "UnicodeEncodeError"),
    ],
)
def test_what_a_program_prints(code: str, expected: str) -> None:
    assert printed(code, SMALL).startswith(expected)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("while True: pass", "error: ended before its end was reached, or by a limit"),
        ("import os\nprint('so far', flush=True)\nos._exit(0)", "so far\nerror: ended before"),
        ("x = [0] * (1 << 30)", "MemoryError"),
        ("import os\nos.listdir('/work') or os.listdir('/root')", "FileNotFoundError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9), 1)", "OSError: [Errno 101]"),
        ("import os, time\nif os.fork() == 0: time.sleep(600)\nprint('parent')", "parent"),
        ("import os\nwhile True: os.fork()", ""),
    ],
)
def test_what_a_program_must_not_do(code: str, expected: str) -> None:
    assert printed(code, SMALL).startswith(expected)


@pytest.mark.heavy
def test_a_program_that_waits_is_ended() -> None:
    code = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
    assert printed(code, Program(wall_seconds=2.0)) == "begun\nerror: ran longer than 2 s"


def test_output_is_bounded() -> None:
    """What is shown, and what is kept: a program that prints without end is ended by the limit on files."""
    assert printed("print('a' * 3000)", Program(output_characters=10)) == f"{'a' * 10} ... (3000 characters)"
    shown = printed("while True: print('a' * 100_000)", SMALL)
    assert shown.startswith("a" * 500 + " ... (") and shown.endswith("by a limit")


def test_the_same_program_prints_the_same() -> None:
    code = "import random\nprint({'a', 'b', 'c', 'd'}, random.random())"
    assert len({printed(code, SMALL) for _ in range(4)}) == 1


def called(tools: Tools, *arguments: Any) -> list[str]:
    """What the tool says in a process of its own, as while a model trains."""
    calls = [f"<tool_call>{json.dumps({'name': 'python', 'arguments': each})}</tool_call>" for each in arguments]
    pool = Pool({ENVIRONMENT: tools}, 0, 1, 1 << 30, "environments")
    try:
        samples = [Sample([{"role": "user", "content": "?"}], call, True) for call in calls]
        return [str(each) for each in pool.call(samples, 120)[ENVIRONMENT]]
    finally:
        pool.close()


def test_a_model_calls_it() -> None:
    tools = Tools(tools=("python",), program=SMALL)
    tools.require()
    first, second, wrong = called(tools, {"code": "x = 2\nprint(x ** 10)"}, {"program": "x"}, {"code": 3})
    assert first == "<tool_response>\n1024\n</tool_response>"
    assert "NameError: name 'x' is not defined" in second, "nothing is left of an earlier call"
    assert "error: a program is text" in wrong


def test_its_time_is_within_that_of_a_turn() -> None:
    with pytest.raises(SpecError, match=r"rlhf.environment.program.wall_seconds: 30 s are not less than .* 30 s"):
        Tools(tools=("python",), program=Program(wall_seconds=30.0)).require()
