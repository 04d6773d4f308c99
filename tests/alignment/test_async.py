"""Rollouts that are drawn while others are learned from: none is lost, used twice or too old, whoever is killed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.core.build import build
from cluster.core.metrics import read
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.stages.alignment import ledger
from pipelines.stages.tokens.order import Order
from pipelines.stages.tuning.conversations import read_conversations
from tests.alignment.test_rlhf import SCRIPT, await_that, consumed_steps, family, has_checkpoint, resumed_steps
from tests.alignment.tiny_chat import SCALING, ahead, source_of
from tests.conftest import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1500)]


def check(artifact: Artifact, inputs: dict[str, Artifact], steps: int, max_staleness: int) -> None:
    """Each prompt of the order was learned from once, and no token was older than the bound."""
    ids = [row["id"] for row in read_conversations(inputs["prompts"].local(), "train")]
    spec, found = artifact.spec, ledger.account(ledger.read(artifact.location))
    count = steps * spec["global_batch_size"] // spec["group_size"]
    assert found.consumed == [ids[i] for i in Order(len(ids), spec["seed"]).samples(0, count)] and not found.skipped
    lines = read(artifact.location)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    first, second = lines[::2], lines[1::2]  # of the two steps that learn from a rollout
    assert all(0 <= line["mean_staleness_steps"] <= line["staleness_steps"] <= 2 * max_staleness for line in first)
    assert all(1 <= line["mean_staleness_steps"] <= line["staleness_steps"] <= 2 * max_staleness + 1 for line in second)
    assert any(line["staleness_steps"] > 0 for line in first), "nothing was drawn ahead"
    assert all(0 < line["correction_weight"] <= 2 for line in lines)


def test_rollouts_are_drawn_ahead_by_weights_of_known_versions(
    chat_inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    found = build(ahead(8, 1), chat_inputs, store=Store(tmp_path), scaling=SCALING, name="tiny")
    check(found, chat_inputs, 8, 1)
    fresh = read(found.location)[0]
    assert fresh["staleness_steps"] == 0 and fresh["rollout_logprob_gap"] < 1e-4
    assert fresh["correction_weight"] == pytest.approx(1, abs=1e-3)
    assert fresh["rollout_wait_seconds"] > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("max_staleness", [1, 3])
def test_nothing_is_lost_or_used_twice_whoever_is_killed(
    chat_inputs: dict[str, Artifact], tmp_path: Path, max_staleness: int
) -> None:
    steps, root = 24, tmp_path / "artifacts"
    for artifact in (*chat_inputs.values(), chat_inputs["model"].parent("model")):
        artifact.location.get(root / artifact.kind / artifact.record.folder)
    source = source_of(chat_inputs["model"].store_url)
    driver = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(root), str(source), str(steps), str(max_staleness)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await_that(lambda: consumed_steps(root) >= 3, "no step was taken")
        family(driver.pid, "GenerationEngine")[0].kill()
        await_that(lambda: has_checkpoint(root) and consumed_steps(root) >= 7, "no checkpoint")
        family(driver.pid, "RayTrainWorker")[0].kill()
        await_that(lambda: resumed_steps(root) > 0, "the learner did not go on")
        await_that(lambda: consumed_steps(root) >= 13, "no step was taken after the learner's death")
    finally:
        for process in [*family(driver.pid), psutil.Process(driver.pid)]:
            with suppress(psutil.NoSuchProcess):  # some end when another one has
                process.kill()
        driver.wait()
    assert not Store(root).list("rlhf"), "it had finished before it was killed"
    found = build(ahead(steps, max_staleness), chat_inputs, store=Store(root), scaling=SCALING, name="tiny")
    check(found, chat_inputs, steps, max_staleness)
    resumed = [event["step"] for event in ledger.read(found.location) if event["event"] == "resumed"]
    assert len(resumed) > 1 and resumed[-1] > 0, "it began anew"
