"""Keeping the model of an endpoint from garbage collection, which asks the store, not Ray."""

from __future__ import annotations

import errno
import logging

from ray import serve

from cluster.core.storage.store import Store
from cluster.core.storage.uses import Used


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
