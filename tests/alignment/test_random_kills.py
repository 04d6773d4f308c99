"""Engines, learners and the driver are killed at random, again and again: no bit changes, and no prompt is lost.

`KILLS=10 KILLS_SEED=4 pytest tests/alignment/test_random_kills.py` says how often and when. A critic is one module with
the policy, so that each learner is a critic's worker, too: either rank may be the one that dies.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import psutil
import pytest

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.stages.alignment import ledger
from tests.alignment.test_async import check
from tests.alignment.test_rlhf import SCRIPT, await_that, consumed_steps, family, same, staging
from tests.alignment.tiny_chat import SCALING, ahead, ppo, source_of
from tests.conftest import ROOT

KILLS, SEED = int(os.environ.get("KILLS", "3")), int(os.environ.get("KILLS_SEED", "0"))
STEPS_APART = 4  # at most, from one kill to the next
VICTIMS = ("engine", "learner", "driver")

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(900 * (KILLS + 2))]


class Driver:
    """The program that trains, in a process of its own; started anew where it has ended before the run has."""

    def __init__(self, arguments: list[str]) -> None:
        self._arguments = arguments
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *self._arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ended(self) -> bool:
        return self._process.poll() is not None

    def await_that(self, what: Callable[[], bool], error: str) -> None:
        """Return once something holds. A driver that has given up, as after its workers' fourth death, begins again."""

        def holds() -> bool:
            if self.ended():
                assert self._process.returncode != 0, "the run ended before the last kill"
                self._start()
            return what()

        await_that(holds, error)

    def family(self, name: str = "") -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return family(self._process.pid, name)
        return []

    def lose(self, victim: str, rng: Random) -> None:
        """Kill one of its engines or learners, or the driver with all that it has started, and begin again."""
        if victim == "driver":
            self.kill()
            self._start()
            return
        name = {"engine": "GenerationEngine", "learner": "RayTrainWorker"}[victim]
        while True:
            self.await_that(lambda: bool(self.family(name)), f"no {victim} came back")
            with suppress(psutil.NoSuchProcess, IndexError):
                rng.choice(self.family(name)).kill()
                return

    def kill(self) -> None:
        for process in [*self.family(), *([] if self.ended() else [psutil.Process(self._process.pid)])]:
            with suppress(psutil.NoSuchProcess):  # some end when another one has
                process.kill()
        self._process.wait()

    def wait(self) -> None:
        """Until it has ended by itself, well or not."""
        await_that(self.ended, "the run did not end")


def killed_at_random(inputs: dict[str, Artifact], root: Path, steps: int, *more: str) -> list[str]:
    """Train in a store at `root` until the run ends by itself; the victims of that, in their order."""
    for artifact in (*inputs.values(), inputs["model"].parent("model")):
        artifact.location.get(root / artifact.kind / artifact.record.folder)
    rng = Random(SEED)
    victims = [rng.choice(VICTIMS) for _ in range(KILLS)]
    driver = Driver([str(root), str(source_of(inputs["model"].store_url)), str(steps), *more])
    try:
        for victim in victims:
            goal = consumed_steps(root) + rng.randint(1, STEPS_APART)
            driver.await_that(lambda goal=goal: consumed_steps(root) >= goal, f"no step {goal}")
            before = times_resumed(root)
            driver.lose(victim, rng)
            if victim != "engine":
                driver.await_that(lambda before=before: times_resumed(root) > before, f"no {victim} went on")
        driver.wait()
    finally:
        driver.kill()
    return victims


def times_resumed(root: Path) -> int:
    place = staging(root)
    events = ledger.read(Location(place)) if place else []
    return sum(event["event"] == "resumed" for event in events)


def steps_for_all() -> int:
    """Enough that the run has not ended when the last kill is due, whole rollouts of two steps."""
    return 2 * (STEPS_APART * KILLS // 2 + 2)


def resumed_often_enough(artifact: Artifact, victims: list[str]) -> None:
    """A run goes on each time that it has lost a learner or its driver."""
    resumed = [event for event in ledger.read(artifact.location) if event["event"] == "resumed"]
    assert len(resumed) >= sum(victim != "engine" for victim in victims), victims


def test_synchronous_runs_end_with_the_same_bits(chat_inputs: dict[str, Artifact], tmp_path: Path) -> None:
    steps = steps_for_all()
    undisturbed = build(ppo(steps), chat_inputs, store=Store(tmp_path / "calm"), scaling=SCALING, name="tiny")
    victims = killed_at_random(chat_inputs, tmp_path / "killed", steps)
    found = build(ppo(steps), chat_inputs, store=Store(tmp_path / "killed"), scaling=SCALING, name="tiny")
    same(found, undisturbed)
    resumed_often_enough(found, victims)


def test_asynchronous_runs_lose_nothing_and_use_nothing_twice(chat_inputs: dict[str, Artifact], tmp_path: Path) -> None:
    steps = steps_for_all()
    victims = killed_at_random(chat_inputs, tmp_path, steps, "1")
    found = build(ahead(steps, 1), chat_inputs, store=Store(tmp_path), scaling=SCALING, name="tiny")
    check(found, chat_inputs, steps, 1)
    resumed_often_enough(found, victims)
