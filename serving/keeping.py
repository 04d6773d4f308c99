"""What is kept as long as an endpoint stands: its models from garbage collection, which asks the store, not Ray; and
what came of a canary."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

from ray import serve

from cluster.core.home import home
from cluster.core.storage.store import Store
from cluster.core.storage.uses import Used
from serving.figures import Figures
from serving.split import Answered


def keep_model(store: str, kind: str, fingerprint: str) -> None:
    """Keep a model as long as this process lives."""
    try:
        Used(Store(store).root, [f"{kind}/{fingerprint}"], resumable=False)
    except OSError as error:  # an endpoint needs no more than to read
        if not isinstance(error, PermissionError) and error.errno != errno.EROFS:
            raise
        logging.getLogger("ray.serve").warning(
            "%s: %s. `ctl artifacts gc` cannot see that this endpoint uses its model: give it an alias.", store, error
        )


@serve.deployment(name="Keeper", ray_actor_options={"num_cpus": 0})
class Keeper:
    """Keeps models as long as the endpoint stands, also where no replica does or one starts again: its own, and the
    one before, for a rollback. Each is a store, a kind and a fingerprint."""

    def __init__(self, models: list[tuple[str, str, str]]) -> None:
        for model in models:
            keep_model(*model)
        self.application = ""  # of the canary that the figures are of
        self.versions: dict[str, Figures] = {}

    def note(self, application: str, answers: list[Answered], pairs: list[dict[str, str]]) -> None:
        """Take what came of requests while a canary stands, and the pairs of a shadow."""
        if application != self.application:
            self.application, self.versions = application, {"stable": Figures(), "canary": Figures()}
        for which, first_seconds, seconds, failed in answers:
            self.versions[which].add(first_seconds, seconds, failed)
        if pairs:
            file = pairs_file(application)
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with file.open("a") as lines:
                lines.writelines(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)

    def figures(self, application: str) -> dict[str, float]:
        """The figures of a canary by name, with those of the version that stands as `stable_...`."""
        if application != self.application:
            return {"requests": 0.0, "stable_requests": 0.0}
        stable = {f"stable_{name}": value for name, value in self.versions["stable"].told().items()}
        return self.versions["canary"].told() | stable


def pairs_file(application: str) -> Path:
    """Where the pairs of a shadow are kept, on the machine of the endpoint's Keeper."""
    return home() / "shadows" / f"{application}.jsonl"
