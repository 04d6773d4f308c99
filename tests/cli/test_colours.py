"""Styles only on a terminal that wants them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pexpect
import pytest

from tests.cli.command import CTL, ctl
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy

PLAIN = [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"CLICOLOR": "0"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}]


def on_terminal(*arguments: str, **more: str) -> bytes:
    kept = {name: value for name, value in os.environ.items() if "COLOR" not in name}
    child = pexpect.spawn(str(CTL), list(arguments), cwd=str(ROOT), env={**kept, "TERM": "xterm", **more}, timeout=240)
    said = bytes(child.read())
    child.close()
    assert child.exitstatus == 0, said
    return said


def test_a_terminal_is_shown_bold_and_not_wider_than_it_is() -> None:
    said = on_terminal("spec", "list", COLUMNS="80")
    assert b"\x1b[1m" in said and b"a model" in said
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    assert max(map(len, plain.splitlines())) <= 80


@pytest.mark.parametrize("environment", PLAIN, ids=lambda environment: "-".join(environment))
def test_not_where_they_are_not_wanted(environment: dict[str, str]) -> None:
    assert b"\x1b" not in on_terminal("spec", "list", **environment)


def test_a_plan_is_plain_where_it_should_be(tmp_path: Path) -> None:
    said = on_terminal("plan", "pipelines/pretrain.py", "--store", str(tmp_path), NO_COLOR="1")
    assert b"\x1b" not in said and b"pretrain" in said


def test_not_into_a_pipe() -> None:
    assert "\x1b" not in ctl("spec", "list", TERM="xterm-256color").stdout
    assert "\x1b" in ctl("spec", "list", CLICOLOR_FORCE="1", TERM="xterm-256color").stdout


RUN = """
from cluster.pipeline import pipeline
from tests.core.toys import WordsSpec
@pipeline
def toy(step):
    step(WordsSpec())
"""


@pytest.mark.parametrize("environment", [PLAIN[0], PLAIN[1]], ids=lambda environment: "-".join(environment))
def test_not_while_a_pipeline_runs(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(RUN)
    where = {"PYTHONPATH": str(ROOT), "TRUNKLINE_STORE": str(tmp_path / "store"), "PYTHON": sys.executable}
    said = on_terminal("run", str(tmp_path / "toy.py"), **where, **environment)
    assert b"words/toy-" in said
    assert b"\x1b[1m" not in said and b"\x1b[3" not in said and b"\x1b[2m" not in said
