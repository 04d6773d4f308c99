"""The RayService's configuration, by Ray Serve's own schema and through its own way of building an application."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ray._common.utils import import_attr
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from cluster.core.errors import InputError, SpecError
from cluster.core.storage.store import Store
from cluster.kubernetes.objects import serve_config
from pipelines.specs import EndpointSpec, PretrainSpec
from tests.evaluation.tiny_run import commit_model
from tests.infra.orders import find, order, rendered
from tests.serving.conftest import write_model

pytestmark = pytest.mark.heavy


def application(endpoint: EndpointSpec) -> dict[str, Any]:
    (found,) = serve_config(endpoint, "lab")["applications"]
    return dict(found)


def test_serve_accepts_the_configuration() -> None:
    text = find(rendered(order()), "RayService")["spec"]["serveConfigV2"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert config.http_options.host == "0.0.0.0"
    assert [app.name for app in config.applications] == ["trunkline"]


def test_an_alias_makes_a_name_that_clients_give() -> None:
    assert application(EndpointSpec(model="chat@prod"))["args"]["served_name"] == "chat-prod"
    assert application(EndpointSpec(model="model/x", served_name="chat"))["args"]["served_name"] == "chat"


@pytest.mark.usefixtures("ray_cluster")
def test_serve_builds_the_application_from_the_store(store: Store, tmp_path: Any, monkeypatch: Any) -> None:
    write_model(tmp_path / "model")
    model = commit_model(store, tmp_path / "model", PretrainSpec(), {})
    store.set_alias("chat@prod", model)
    monkeypatch.setenv("TRUNKLINE_STORE", store.root.url)
    wanted = application(EndpointSpec(model="chat@prod", max_replicas=3))
    builder = import_attr(wanted["import_path"])
    built = call_user_app_builder_with_args_if_necessary(builder, wanted["args"])
    assert isinstance(built, Application)
    with pytest.raises(InputError, match="no artifact 'ghost'"):
        builder({"model": "ghost"})
    with pytest.raises(SpecError, match=r"endpoint\.modle"):
        builder({"modle": "chat@prod"})
