"""Another model in a manifest: `ctl infra apply` lets it take over from one that does the same."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.core.errors import InputError
from cluster.core.storage.store import Store
from cluster.kubernetes.successor import check_successor
from pipelines.specs import EndpointSpec, InfraSpec, PretrainedSpec
from tests.export import lines
from tests.infra.orders import find, order, rendered
from tests.serving.pooling import models


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store's URL, and models in it."""
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder)
    made = {"writer": models.writer(store), "reward": models.reward(store)}
    made["other"] = lines.commit(store, PretrainedSpec(license="other"), lines.folder())
    return {"store": f"file://{folder}"} | {name: artifact.record.ref for name, artifact in made.items()}


def service(model: str, store: str) -> Any:
    return find(rendered(order(InfraSpec(store=store), endpoint=EndpointSpec(model=model))), "RayService")


def check(refs: dict[str, str], before: str, after: str) -> list[str]:
    told: list[str] = []
    check_successor(*(service(refs.get(name, name), refs["store"]) for name in (before, after)), told.append)
    return told


def test_a_model_that_does_the_same_takes_over(refs: dict[str, str]) -> None:
    assert check(refs, "other", "writer") == [] == check(refs, "reward", "reward")


def test_one_that_does_not_is_refused(refs: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"endpoint .trunkline-endpoint. writes.* it scores texts") as refused:
        check(refs, "writer", "reward")
    assert "--change-task" in refused.value.remedy
    with pytest.raises(InputError, match="ghost"):
        check(refs, "writer", "pretrain/ghost")


def test_what_cannot_be_known_is_told(refs: dict[str, str]) -> None:
    told = check(refs | {"store": ""}, "writer", "reward")
    assert len(told) == 1 and refs["reward"] in told[0]


def test_a_service_of_others_is_none_of_ours(refs: dict[str, str]) -> None:
    other = {"metadata": {"name": "other"}, "spec": {"serveConfigV2": "applications: [{import_path: a:b}]\n"}}
    check_successor(other, service(refs["reward"], refs["store"]), pytest.fail)
