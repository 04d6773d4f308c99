"""Experiment trackers: asked for by their own environment, one run over restarts, and never the end of a run."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.core import trackers
from cluster.core.metrics import NOTICES, MetricsLog, read
from cluster.core.storage.location import Location

FINGERPRINT = "0123456789abcdef" * 4
VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_MODE", "WANDB_DIR")


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package}, which is optional, is not installed")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def log(place: Location, step: int) -> MetricsLog:
    return MetricsLog(place, "mine", step, trackers.trackers(place, "mine", FINGERPRINT, {"learning_rate": 0.5}))


def records(stored: bytes) -> Iterator[bytes]:
    """The records of a small offline run: LevelDB's log format (checksum, length, type; one block) after a header."""
    position = 7
    while position < len(stored):
        _, length, kind = struct.unpack_from("<IHB", stored, position)
        assert kind == 1, "a record in one piece"
        yield stored[position + 7 : position + 7 + length]
        position += 7 + length


def train(place: Location, first: int, last: int) -> None:
    """One attempt of a run: a line for each of its steps."""
    writer = log(place, first - 1)
    for step in range(first, last + 1):
        writer.write({"step": step, "loss": 1.0 / step, "mfu": None, "rank_seconds": [0.1, 0.2]})
    writer.close()


def test_no_tracker_is_used_that_is_not_asked_for() -> None:
    assert trackers.asked_for() == []


def test_disabled_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert trackers.asked_for() == []


@needs("mlflow")
@needs("alembic")  # not part of mlflow-skinny, and its local database needs it
def test_mlflow_has_one_run_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    place = Location(tmp_path / "run")
    train(place, 1, 2)
    train(place, 3, 4)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("trunkline")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"learning_rate": "0.5"}
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(step, 1.0 / step) for step in (1, 2, 3, 4)]
    assert not any(NOTICES in line for line in read(place))


@needs("wandb")
def test_wandb_has_one_run_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    place = Location(tmp_path / "run")
    train(place, 1, 2)
    train(place, 3, 4)
    assert not any(NOTICES in line for line in read(place))
    found = []
    for file in sorted(place.path.rglob("*.wandb")):
        assert FINGERPRINT[: trackers.ID_LENGTH] in file.name
        for data in records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("history"):
                items = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
                found.append((items["_step"], items["loss"]))
    assert sorted(found) == [(step, 1.0 / step) for step in (1, 2, 3, 4)]
    assert [path for path in place.path.rglob("*") if path.is_symlink()] == []


@needs("mlflow")
def test_a_tracker_that_fails_is_told_of_once_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
    place = Location(tmp_path / "run")
    train(place, 1, 3)
    lines = read(place)
    assert [line["loss"] for line in lines] == [1.0 / step for step in (1, 2, 3)]
    (notice,) = lines[0][NOTICES]
    assert notice.startswith("mlflow failed, the run goes on without it: ")
    assert not any(NOTICES in line for line in lines[1:])
