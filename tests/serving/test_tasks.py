"""What models do, and what may come behind a name that does it until now. (What `ctl` refuses of a real endpoint is in
test_when_it_is_replaced.py.)"""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest

from cluster.core.errors import InputError, SpecError
from cluster.core.pooling import pooling_of
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.spec import override
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainedSpec
from serving.beside import resolved
from serving.checks import check_pooling, check_scorer
from serving.endpoints import MODEL_VARIABLE, ORIGIN_VARIABLE, origin
from serving.tasks import check_named, check_tasks, tasks
from tests.export import lines
from tests.serving.pooling import models

DOES = {
    "writer": ("writes", "takes conversations"),
    "base": ("writes",),
    "reward": ("scores texts", "takes conversations"),
    "cross_encoder": ("scores texts",),
    "classifier": ("tells the logits of labels",),
    "encoder": ("makes vectors of texts",),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def made(store: Store) -> dict[str, Artifact]:
    base = lines.commit(store, PretrainedSpec(license="base"), lines.folder())
    return {name: base if name == "base" else getattr(models, name)(store) for name in DOES}


def test_what_each_model_does(made: dict[str, Artifact]) -> None:
    assert {name: tasks(artifact) for name, artifact in made.items()} == DOES


@pytest.mark.parametrize(("before", "after"), [*permutations(DOES, 2), ("writer", "writer")])
def test_a_name_goes_on_doing_what_it_did(made: dict[str, Artifact], before: str, after: str) -> None:
    ref = made[after].record.ref
    if (before, after) in (("writer", "writer"), ("base", "writer"), ("cross_encoder", "reward")):
        check_tasks("endpoint 'chat'", DOES[before], ref, DOES[after])
        return
    with pytest.raises(InputError) as raised:
        check_tasks("endpoint 'chat'", DOES[before], ref, DOES[after])
    lost = " and ".join(task for task in DOES[before] if task not in DOES[after])
    assert raised.value.message == f"endpoint 'chat' {lost}, and {ref} does not: it {' and '.join(DOES[after])}"
    assert "--change-task" in raised.value.remedy and "--name" in raised.value.remedy


def test_so_do_the_names_of_other_models(store: Store, made: dict[str, Artifact]) -> None:
    def named(**refs: str) -> Any:
        wanted = {name: made[kind].record.ref for name, kind in refs.items()}
        return resolved(wanted, EndpointSpec(model="m"), "chat", made["base"], store)

    live = named(support="writer", judge="reward")
    assert [each.tasks for each in live] == [DOES["writer"], DOES["reward"]]
    check_named("chat", live, named(judge="reward", other="encoder", support="writer"))
    with pytest.raises(InputError, match=r"'support' of endpoint 'chat' writes, and .* does not: it scores texts"):
        check_named("chat", live, named(support="reward"))


def running(name: str, **told: Any) -> dict[str, Any]:
    """Serve's account of an endpoint."""
    made_of = {"spec": {"model": "m"}, "store": "s", "kind": "k", "fingerprint": "f", **told}
    variables = {MODEL_VARIABLE: "k/m-f", ORIGIN_VARIABLE: json.dumps(made_of)}
    deployment = {"deployment_config": {"ray_actor_options": {"runtime_env": {"env_vars": variables}}}}
    return {"applications": {name: {"deployments": {"Vllm": deployment}}}}


def test_an_endpoint_of_before_may_be_replaced_by_any() -> None:
    """It has not told what it does."""
    found = origin(running("chat"), "chat")
    assert found is not None
    check_tasks("endpoint 'chat'", found["tasks"], "reward/x", DOES["reward"])


def test_what_scores_answers_on_the_page_is_looked_at_before(store: Store, made: dict[str, Artifact]) -> None:
    spec = EndpointSpec(model="m", scorer="judge")
    check_scorer(EndpointSpec(model="m"), [], None)
    check_scorer(spec, [], running("judge", tasks=DOES["reward"]))
    check_scorer(spec, resolved({"judge": made["reward"].record.ref}, spec, "chat", made["base"], store), None)
    for details in (None, running("other", tasks=DOES["reward"]), running("judge")):
        with pytest.raises(InputError, match=r"'judge' is neither a name of endpoint.models nor an endpoint that runs"):
            check_scorer(spec, [], details)
    for kind in ("writer", "cross_encoder", "classifier", "encoder"):
        with pytest.raises(InputError, match=r"'judge' .* and does not score answers"):
            check_scorer(spec, [], running("judge", tasks=DOES[kind]))
    with pytest.raises(SpecError, match=r"endpoint\.page=false"):
        override(EndpointSpec(model="m"), {"scorer": "judge", "page": False}, "endpoint")
    pooling = pooling_of(made["reward"])
    assert pooling is not None
    with pytest.raises(SpecError, match=r"endpoint\.scorer"):
        check_pooling(spec, made["reward"], pooling)
