"""`ctl jobs profile`: a run that trains is found by name and leaves a trace; what does not train is refused."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.cli.jobs import profile
from cluster.core.build import build
from cluster.core.errors import InputError, JobError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.stages.training.telemetry import profiles
from tests.training.run_once import SCALING
from tests.training.tiny import make_tokens, pretrain

pytestmark = pytest.mark.heavy

STEPS = 300  # far more than pass until the run is asked


def test_a_run_is_profiled_while_it_trains(tmp_path: Path, ray_cluster: None) -> None:
    store = Store(tmp_path / "store")
    tokens = make_tokens(store)
    scaling = msgspec.structs.replace(SCALING, checkpoint_every_seconds=1000.0)
    trains, asked, built = threading.Event(), threading.Event(), []
    notices: list[str] = []

    def report(done: float, total: float, unit: str, stats: dict[str, Any]) -> None:
        if done > 0:
            trains.set()
            asked.wait(240)  # the run itself goes on meanwhile: only its driver waits

    def work() -> None:
        inputs = {"tokens": tokens}
        built.append(
            build(
                pretrain(STEPS),
                inputs,
                store=store,
                scaling=scaling,
                name="my_run",
                report=report,
                notice=notices.append,
            )
        )

    thread = threading.Thread(target=work)
    thread.start()
    trace = tmp_path / "trace.json.gz"
    try:
        assert trains.wait(240)
        profile(job="my-run-0a1b2c", steps=2, rank=0, out=trace, timeout=240.0, store=store.root.url)
    finally:
        asked.set()
        thread.join()
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    assert names.count("aten::embedding") == 2
    assert "aten::mm" in names
    (artifact,) = built
    assert isinstance(artifact, Artifact)
    assert any(name.endswith("rank-1.json.gz") for name in artifact.record.files)
    assert any("were profiled" in notice for notice in notices)


def test_what_does_not_train_is_not_found(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(InputError, match=r"no training run 'mine'.*Nothing trains there"):
        profiles.find(store, "mine")
    run = profiles.Run("pretrain", "mine", "ab" * 32)
    profiles.announce(store.staging(*_address(run)), run)
    with pytest.raises(InputError, match=r"no training run 'mine'"):  # left behind by one that was killed
        profiles.find(store, "mine")


def test_a_run_is_found_by_name_kind_and_job(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = [profiles.Run("pretrain", "a_b", "ab" * 32), profiles.Run("sft", "a_b", "cd" * 32)]
    leases = [store.lease(run.kind, run.fingerprint) for run in runs]
    for run, lease in zip(runs, leases, strict=True):
        profiles.announce(store.staging(*_address(run)), run)
        assert lease.acquire()
    for name in ("a_b", "a-b-012345"):
        with pytest.raises(InputError, match="may mean pretrain/a_b-abababababab, sft/a_b-cdcdcdcdcdcd"):
            profiles.find(store, name)
    assert profiles.find(store, "sft/a_b").run == runs[1]
    leases[1].release()
    assert profiles.find(store, "a-b-012345").run == runs[0]
    one = profiles.find(store, "a_b")
    leases[0].release()
    with pytest.raises(JobError, match="ended before it could be profiled"):
        profiles.profile(store, one, steps=2, timeout_seconds=10)


def _address(run: profiles.Run) -> tuple[str, str, str]:
    return run.kind, run.name, run.fingerprint
