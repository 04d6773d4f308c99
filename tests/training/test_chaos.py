"""Workers, a node and the driver are killed at random: the run ends, and its curve is that of an undisturbed one.
A node that says when it will go is saved from first.

Every kind of kill comes once, with TRUNKLINE_TEST_KILLS=20 more often, in random order. A lost worker or node needs no
one's hand; a driver is started again by the same command, as a job's would be.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.core.metrics import METRICS_FILE, STEP, TIMED, read
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from tests.training.test_stage import SCRIPT
from tests.training.two_nodes import TwoNodes

pytestmark = pytest.mark.heavy

KINDS = ("node", "driver", "worker", "SIGTERM")
MOST_KILLS = int(os.environ.get("TRUNKLINE_TEST_KILLS", str(len(KINDS))))
LONGEST_GAP = 60  # steps that a kill comes after, at most, behind the first new one
STEPS_PER_KILL = 90
SCALING = json.dumps({"log_every": 1, "checkpoint_every_seconds": 0.2, "max_failures": 100})
SECONDS_PER_KILL = 600  # most of them the start of a group of workers, on a machine that others use too


class Run:
    """A driver of the same command, again and again, until the model is there."""

    def __init__(self, root: Path, environment: dict[str, str], steps: int, scaling: str = SCALING) -> None:
        self.root, self.environment = root, environment
        self.arguments = [str(steps), scaling]
        self.starts = 0
        self.start()

    def start(self) -> None:
        self.starts += 1
        command = [sys.executable, str(SCRIPT), str(self.root), *self.arguments]
        with (self.root.parent / f"driver-{self.starts}.log").open("wb") as log:
            self.driver = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def log(self) -> str:
        return (self.root.parent / f"driver-{self.starts}.log").read_text()[-3000:]

    def step(self) -> int:
        """The last step in the metrics, which may be one that a checkpoint does not have yet."""
        for path in self.root.glob(f".staging/pretrain-*/{METRICS_FILE}"):
            if lines := path.read_bytes().rpartition(b"\n")[0].splitlines():
                return int(json.loads(lines[-1])[STEP])
        return 0

    def checkpoints(self) -> list[int]:
        """The steps after which a whole checkpoint was written."""
        parts = self.root.glob(".staging/pretrain-*/.train/checkpoints/step-*/*-of-00002.part")
        folders = [path.parent.name for path in parts]
        return sorted({int(name.split("-")[1]) for name in folders if folders.count(name) == 2})

    def await_checkpoint(self) -> int:
        """Return the step of the first checkpoint, once it is there."""
        pause, deadline = threading.Event(), time.monotonic() + SECONDS_PER_KILL
        while not (found := self.checkpoints()):
            assert self.driver.poll() is None, f"the run ended without a checkpoint: {self.log()}"
            assert time.monotonic() < deadline, f"no checkpoint for {SECONDS_PER_KILL} s: {self.log()}"
            pause.wait(0.1)
        return found[0]

    def await_steps(self, count: int) -> None:
        """Return once `count` more lines of metrics are written, or the run has ended."""
        pause, deadline = threading.Event(), time.monotonic() + SECONDS_PER_KILL
        seen, passed = self.step(), 0
        while passed < count and self.driver.poll() is None:
            assert time.monotonic() < deadline, f"no step for {SECONDS_PER_KILL} s: {self.log()}"
            pause.wait(0.1)
            now = self.step()
            passed += max(0, now - seen)
            seen = now


def lines(place: Location) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read(place)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    with TwoNodes(tmp_path_factory.mktemp("nodes")) as made:
        yield made


@pytest.mark.timeout(300 + max(2, MOST_KILLS) * SECONDS_PER_KILL)
@pytest.mark.parametrize("kills", [2, pytest.param(MOST_KILLS, marks=pytest.mark.exhaustive)])
def test_a_run_that_is_killed_at_random_ends_like_an_undisturbed_one(
    kills: int, nodes: TwoNodes, tmp_path: Path
) -> None:
    rng, steps = random.Random(kills), STEPS_PER_KILL * (kills + 1)
    kinds = [*KINDS[:kills], *rng.choices(KINDS, k=max(0, kills - len(KINDS)))]
    rng.shuffle(kinds)
    for name in ("killed", "undisturbed"):
        (tmp_path / name / "store").mkdir(parents=True)
    run = Run(tmp_path / "killed" / "store", nodes.environment, steps)
    for kind in kinds:
        run.await_steps(1 + rng.randrange(LONGEST_GAP))
        assert run.driver.poll() is None, f"it ended before the {kind} was killed: {run.log()}"
        if kind == "worker":
            rng.choice(nodes.workers()).kill()
        elif kind == "node":
            nodes.lose()
            nodes.join()
        else:
            run.driver.kill() if kind == "driver" else run.driver.terminate()
            assert run.driver.wait(SECONDS_PER_KILL) != 0
            run.start()
    assert run.driver.wait(SECONDS_PER_KILL + 300) == 0, run.log()
    reference = Run(tmp_path / "undisturbed" / "store", nodes.environment, steps)
    assert reference.driver.wait(SECONDS_PER_KILL + 300) == 0, reference.log()
    killed, undisturbed = (Store(one.root).list("pretrain")[0] for one in (run, reference))
    assert [line[STEP] for line in lines(killed.location)] == list(range(1, steps + 1))
    assert lines(killed.location) == lines(undisturbed.location)
    assert killed.metrics == undisturbed.metrics
    assert killed.record.files["model.safetensors"] == undisturbed.record.files["model.safetensors"]


@pytest.mark.timeout(900)
def test_before_a_node_goes_as_announced_the_run_is_saved(nodes: TwoNodes, tmp_path: Path) -> None:
    """The only reason for a checkpoint is the announcement: by its clock this run would write none for hours."""
    store = tmp_path / "store"
    store.mkdir()
    scaling = json.dumps({"log_every": 1, "checkpoint_every_seconds": 10_000, "max_failures": 3})
    run = Run(store, nodes.environment, 100_000, scaling)
    run.await_steps(20)
    assert not run.checkpoints()
    nodes.announce_end(seconds=SECONDS_PER_KILL)
    saved = run.await_checkpoint()
    nodes.lose()
    nodes.join()
    before = run.step()
    run.await_steps(1)
    assert run.driver.poll() is None, run.log()
    run.driver.kill()
    run.driver.wait()
    log = run.log()
    assert "core_worker" not in log, "Ray's own log is not for this terminal"
    assert "aylet" not in log, log
    assert re.search(r"^training worker [01] will lose its node in \d+ s: a checkpoint", log, re.MULTILINE), log
    assert re.search(r"^a node of the cluster was lost: \S+$", log, re.MULTILINE), log
    assert 20 <= saved <= before
    (folder,) = store.glob(".staging/pretrain-*")
    written = [line[STEP] for line in lines(Location(folder))]
    assert written == list(range(1, len(written) + 1))
    assert len(written) > saved
