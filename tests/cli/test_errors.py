"""What goes wrong at the command line: one sentence, the right exit code, no traceback; with --debug, the traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.core.storage.store import Store
from tests.cli.command import ctl
from tests.core.toys import WordsSpec

QUICKSTART = "pipelines/quickstart.py"


@dataclass(frozen=True)
class Case:
    """A wrong command, its exit code, and the words that its one sentence must hold."""

    arguments: list[str]
    exit_code: int
    words: list[str]


CASES = {
    "unknown command": Case(["pln"], 2, ["No such command 'pln'", "plan"]),
    "missing argument": Case(["plan"], 2, ["Missing argument", "ctl plan --help"]),
    "unknown option": Case(["plan", "--st", "x"], 2, ["--st", "ctl plan --help"]),
    "typo in a field": Case(
        ["plan", QUICKSTART, "--set", "pretrain.total_token=5"], 3, ["pretrain.total_token", "'total_tokens'"]
    ),
    "typo in a step": Case(["plan", QUICKSTART, "--set", "pretran.seed=5"], 3, ["pretran", "'pretrain'"]),
    "wrong type": Case(["plan", QUICKSTART, "--set", "pretrain.seed=soon"], 3, ["pretrain.seed", "`int`", "`str`"]),
    "out of bounds": Case(["run", QUICKSTART, "--set", "corpus.heldout_fraction=2"], 3, ["corpus.heldout_fraction"]),
    "not an assignment": Case(["plan", QUICKSTART, "--set", "seed"], 3, ["--set seed", "STEP.FIELD=VALUE"]),
    "missing script": Case(["run", "pipelines/nothing.py"], 3, ["pipelines/nothing.py", "no such file"]),
    "missing config": Case(["plan", QUICKSTART, "-c", "no.yaml"], 3, ["no.yaml", "no such file"]),
    "missing artifact": Case(["artifacts", "show", "ghost"], 3, ["ghost"]),
    "missing corpus": Case(
        ["run", QUICKSTART, "--set", "corpus.sources=[{reader: text, path: /nowhere}]"],
        3,
        ["corpus.sources", "/nowhere", "not a folder"],
    ),
    "unknown kind": Case(["spec", "schema", "corpse"], 3, ["corpse", "'corpus'"]),
    "bad name": Case(["run", QUICKSTART, "--name", "a/b"], 3, ["--name 'a/b'"]),
    "no cluster": Case(["jobs", "list", "--cluster"], 4, ["ctl up"]),
    "no cluster to submit to": Case(["submit", QUICKSTART], 4, ["ctl up"]),
    "no cluster, status": Case(["status"], 4, ["ctl up"]),
}


def _check(done: subprocess.CompletedProcess[str], exit_code: int, words: list[str]) -> None:
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ctl: "), done.stderr
    for word in words:
        assert word in lines[0]


HEAVY = ("missing corpus",)  # its run looks first whether training fits, which takes torch


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.heavy] if name in HEAVY else []) for name in CASES]
)
def test_case(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    _check(ctl(*case.arguments, TRUNKLINE_STORE=str(tmp_path / "artifacts")), case.exit_code, case.words)


def test_bad_yaml_names_the_line(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("corpus:\n  seed: 1\n  seed 2\n")
    _check(ctl("plan", QUICKSTART, "--config", config), 3, [str(config), ":4:"])
    config.write_text("corpus: {sed: 1}\n")
    _check(ctl("spec", "validate", config), 3, [str(config), "corpus.sed", "'seed'"])


def test_debug_shows_the_traceback() -> None:
    done = ctl("run", "pipelines/nothing.py", "--debug")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_port_in_use(taken_port: int) -> None:
    _check(ctl("up", "--port", str(taken_port)), 4, [str(taken_port), "in use"])
    _check(ctl("demo", "--port", str(taken_port)), 4, [str(taken_port), "in use"])


def test_dead_cluster(free_address: str) -> None:
    _check(ctl("jobs", "list", "--cluster", RAY_ADDRESS=free_address), 4, [free_address])


@pytest.fixture
def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(small_disk: Path) -> None:
    script = small_disk / "toy.py"
    script.write_text(
        "from cluster.pipeline import pipeline\n"
        "from tests.core.toys import WordsSpec\n"
        "@pipeline\n"
        "def toy(step):\n"
        "    step(WordsSpec(words=('x' * 2_000_000,)))\n"
    )
    done = ctl("run", script, "--store", small_disk / "artifacts", PYTHONPATH=".")
    _check(done, 4, ["no space left", str(small_disk), "gc"])


def test_damage_is_reported(tmp_path: Path, make_words: Callable[[Path], str]) -> None:
    root = tmp_path / "artifacts"
    ref = make_words(root)
    next((root / "words").glob("*/0.txt")).write_text("damaged")
    done = ctl("artifacts", "verify", "--store", root)
    assert done.returncode == 5
    assert f"{ref}: 0.txt: digest differs" in done.stdout


@pytest.fixture
def make_words() -> Callable[[Path], str]:
    from cluster.core.build import build

    return lambda root: build(WordsSpec(), {}, store=Store(root), name="toy").record.ref


@pytest.mark.heavy
def test_no_library_warns_that_there_is_no_gpu() -> None:
    """transformers imports DeepSpeed, which says so on the standard output."""
    code = "from cluster.control.screen.console import guarded; guarded(lambda: __import__('deepspeed') and 0)"
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "WARNING" not in told.stdout + told.stderr
