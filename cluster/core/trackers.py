"""Experiment trackers: MLflow and Weights & Biases as views of a run's metrics.

Each is used where its package is installed and its own environment variables ask for it, so that no spec knows of
them: MLFLOW_TRACKING_URI (and MLFLOW_EXPERIMENT_NAME); WANDB_PROJECT or WANDB_MODE (and WANDB_API_KEY, ...). A run
keeps its identity: started again, it goes on as the same run of the tracker, found by the artifact's fingerprint. A
tracker that fails is given up with one sentence, and never takes the training with it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from cluster.core.storage.location import Location

TAG = "trunkline.fingerprint"
FOLDER = "wandb"  # below the output, unless WANDB_DIR says otherwise
ID_LENGTH = 12

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """Takes the figures of a run. Neither method raises."""

    def log(self, step: int, figures: dict[str, float]) -> str:
        """Take a step's figures. Returns what went wrong, empty where nothing did."""

    def close(self) -> None:
        """The run has ended well."""


def asked_for() -> list[str]:
    """The trackers that the environment asks for and that are installed: `mlflow`, `wandb`."""
    asked = {
        "mlflow": bool(os.environ.get("MLFLOW_TRACKING_URI")),
        "wandb": bool(os.environ.get("WANDB_PROJECT"))
        or os.environ.get("WANDB_MODE", "disabled") not in ("", "disabled"),
    }
    return [name for name, wanted in asked.items() if wanted and importlib.util.find_spec(name)]


def trackers(place: Location, run: str, fingerprint: str, spec: dict[str, Any]) -> list[Tracker]:
    """The trackers that are asked for, for the run `run` that builds the artifact `fingerprint` from `spec`.

    Nothing is contacted yet: that, too, may fail, and does so at the first figures.
    """
    make: dict[str, Callable[[], _Session]] = {
        "mlflow": lambda: _MLflow(run, fingerprint, spec),
        "wandb": lambda: _WandB(place, run, fingerprint, spec),
    }
    return [_Guarded(name, make[name]) for name in asked_for()]


class _Session(Protocol):
    """A run of a tracker, opened; its methods may raise whatever the tracker's package does."""

    def log(self, step: int, figures: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class _Guarded:
    """A session whose errors are told and go no further."""

    def __init__(self, name: str, make: Callable[[], _Session]) -> None:
        self._name, self._make = name, make
        self._session: _Session | None = None

    def log(self, step: int, figures: dict[str, float]) -> str:
        try:
            self._session = self._session or self._make()
            self._session.log(step, figures)
        except Exception as error:  # of another's package and service: any is possible, none is worth a run
            self.close()
            lines = str(error).strip().splitlines()
            return f"{self._name} failed, the run goes on without it: {lines[-1] if lines else type(error).__name__}"
        return ""

    def close(self) -> None:
        try:
            if self._session:
                self._session.close()
        except Exception as error:
            logger.warning("%s: %s", self._name, error)


class _MLflow:
    def __init__(self, run: str, fingerprint: str, spec: dict[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._client, self._metric = MlflowClient(), Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "trunkline")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        there = self._client.search_runs([number], f"tags.`{TAG}` = '{fingerprint}'", max_results=1)
        if there:
            self._id = there[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id = self._client.create_run(number, run_name=run, tags={TAG: fingerprint}).info.run_id
        for field, value in spec.items():
            self._client.log_param(self._id, field, value)

    def log(self, step: int, figures: dict[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, [self._metric(name, value, now, step) for name, value in figures.items()])

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _WandB:
    def __init__(self, place: Location, run: str, fingerprint: str, spec: dict[str, Any]) -> None:
        import wandb

        self._own = place.path / FOLDER if place.is_local and not os.environ.get("WANDB_DIR") else None
        if self._own:
            self._own.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "trunkline"),
            name=run,
            id=fingerprint[:ID_LENGTH],
            resume="allow",
            config=spec,
            dir=self._own,
            # Links would break when the artifact moves to its place; the worker's output is none of the tracker's.
            settings=wandb.Settings(symlink=False, console="off", silent=True),
        )

    def log(self, step: int, figures: dict[str, float]) -> None:
        self._run.log(figures, step=step)

    def close(self) -> None:
        self._run.finish()
        for path in sorted(self._own.rglob("*")) if self._own else ():
            if path.is_symlink():  # to a log of the tracker's own service, which is no part of the artifact
                path.unlink()
