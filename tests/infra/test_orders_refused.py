"""What Kubernetes would refuse later, or everybody would read, is refused where the specs are read."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import SpecError
from cluster.core.specs import kubernetes_names as names
from cluster.core.specs.spec import convert
from cluster.kubernetes.objects import Order
from cluster.kubernetes.tree import tree
from pipelines.specs import EndpointSpec, InfraSpec
from tests.infra.orders import find, order, problems, rendered

S3 = {"store": "s3://models/trunkline"}

REFUSED: dict[str, dict[str, Any]] = {
    "namespace": {"namespace": "kube-public"},
    "name": {"name": "lab\n"},
    "pull_secret": {"pull_secret": "My Secret"},
    "store_secret": {**S3, "store_secret": "keys_"},
    "service_account": {"service_account": "Trainer"},
    "storage_class": {"storage_class": "fast/ssd"},
    "redis_secret": {"redis_address": "redis:6379", "redis_secret": "-x"},
    "redis_address": {"redis_address": "redis:0", "redis_secret": "x"},
    "redis_address with a password": {"redis_address": "redis://:hunter2@redis:6379", "redis_secret": "x"},
    "queue": {"queue": "a" * 64},
    "priority": {"priority": "High", "queue": "q"},
    "priority without a queue": {"priority": "high"},
    "image": {"image": "trunkline cpu"},
    "gpu_image": {"gpu_image": "Trunkline:cuda"},
    "registry": {"registry": "https://registry.lab"},
    "gpu_node_selector": {"gpu_node_selector": {"a b": "c"}},
    "spot_node_selector": {"spot_node_selector": {"spot": "of course"}},
    "store": {"store": "s3://KEY:hunter2@bucket"},
    "store without a bucket": {"store": "s3://"},
    "store in a file": {"store": "file:///data/trunkline"},
    "store with a line": {"store": "s3://models\n/x"},
    "store with a query": {"store": "s3://models/x?secret=hunter2"},
    "store_endpoint with a query": {**S3, "store_endpoint": "https://minio:9000/?signature=hunter2"},
    "image with a password": {"image": "me:hunter2@registry.lab/trunkline:cpu"},
    "registry with a password": {"registry": "me:hunter2@registry.lab"},
    "store_endpoint": {**S3, "store_endpoint": "http://user:hunter2@minio:9000"},
    "store_endpoint's port": {**S3, "store_endpoint": "http://minio:99999"},
    "keep_seconds with a queue": {"queue": "q", "keep_seconds": 60},
    "deadline_seconds": {"deadline_seconds": 2**31},
    "schedule": {"schedule": "0 25 * * *"},
    "time_zone": {"schedule": "@daily", "time_zone": "Europe/Pari"},
    "time_zone without a schedule": {"time_zone": "Europe/Paris"},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_field_is_named_and_no_password_is_repeated(case: str) -> None:
    with pytest.raises(SpecError) as raised:
        convert(REFUSED[case], InfraSpec, "infra").check()
    assert f"infra.{case.partition(' ')[0].partition(chr(39))[0]}" in str(raised.value)
    assert "hunter2" not in str(raised.value) and raised.value.remedy


def test_a_password_in_the_specs_of_a_run_is_rendered_nowhere() -> None:
    run = {"corpus": {"sources": [{"path": "https://me:hunter2@data.lab/x.jsonl"}]}}
    wanted = Order(InfraSpec(), order().scaling, order().endpoint, run, "pretrain")
    with pytest.raises(SpecError, match=r"corpus\.sources\.0\.path") as raised:
        tree(wanted)
    assert "hunter2" not in str(raised.value)


def test_the_validator_sees_a_password_in_any_url() -> None:
    config = find(rendered(order()), "ConfigMap")
    config["data"]["other.yaml"] = "url: postgresql://me:hunter2@db.lab/keys"
    assert [problem.field for problem in problems(config)] == ["data['other.yaml']"]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("0 3 * * *", True), ("*/5 0-6,22 1 JAN-MAR mon", True), ("@daily", True), ("0 0 31 12 6", True),
        ("0 3 * *", False), ("60 * * * *", False), ("5-1 * * * *", False), ("*/0 * * * *", False), ("@reboot", False),
        ("a * * * *", False), ("", False),
    ],
)  # fmt: skip
def test_schedules(text: str, right: bool) -> None:
    assert names.is_schedule(text) is right


@given(st.text(alphabet="aZ0-_./ \n", max_size=70))
def test_names_end_where_they_end(text: str) -> None:
    for known in (names.is_label, names.is_name, names.is_key, names.is_value, names.is_port_name, names.is_image):
        assert not (known(text) and (text.endswith(("\n", "-", ".")) or " " in text))


def test_an_endpoint_is_called_the_same_whatever_it_serves() -> None:
    """KubeRay takes an application with another name for another application, and the old one away (row 29)."""

    def service(**fields: Any) -> Any:
        return find(rendered(order(endpoint=EndpointSpec(**fields))), "RayService")["spec"]

    def digests(spec: Any) -> set[str]:
        cluster = spec["rayClusterConfig"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        return {group["template"]["metadata"]["annotations"]["trunkline.io/made-of"] for group in groups}

    old, new, more = service(model="model/a"), service(model="model/b"), service(model="model/a", max_replicas=3)
    applications = [yaml.safe_load(spec["serveConfigV2"])["applications"] for spec in (old, new)]
    assert [app["name"] for (app,) in applications] == ["trunkline", "trunkline"]
    assert [app["args"]["served_name"] for (app,) in applications] == ["a", "b"]
    assert len(digests(old)) == len(digests(new)) == 1
    assert digests(old) != digests(new) and digests(old) == digests(more)
