"""What is rendered, and what the validator says, held against a real API server and KubeRay's operator; no pods."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster.core.errors import InputError, SpecError
from cluster.core.specs.access import Access
from cluster.core.specs.spec import convert
from cluster.kubernetes.api import Api, comparable, placed
from cluster.kubernetes.documents import Document, read
from cluster.kubernetes.following import follow
from cluster.kubernetes.objects import Order
from cluster.kubernetes.schema import read_crds
from cluster.kubernetes.validate import Report, refused, rules
from pipelines.specs import EndpointSpec, InfraSpec, ScalingSpec
from tests.cli.command import ctl
from tests.conftest import ROOT
from tests.infra.orders import changed, find, order, rendered
from tests.infra.test_mistakes import BY_RULE, VALID
from tests.kubernetes.mutations import mutated
from tests.kubernetes.on_pods import until
from tests.kubernetes.pairs import Row, pairwise
from tests.kubernetes.server import CRDS, PLACES, Server, running

pytestmark = [pytest.mark.heavy, pytest.mark.exhaustive, pytest.mark.timeout(900)]

MUTATIONS = 2000
NAMESPACE = "trunkline"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("--no-pods") as found:
        found.kubectl("create", "namespace", NAMESPACE)
        yield found


@pytest.mark.parametrize("folder", ["base", "overlays/dev", "overlays/gpu", "overlays/gpu-spot", "overlays/air-gapped"])
def test_what_is_committed_is_taken(server: Server, folder: str) -> None:
    text = server.kubectl("kustomize", str(ROOT / "infra" / "kuberay" / folder))
    bodies = list(yaml.safe_load_all(text))
    assert len(bodies) == 19
    assert [said for body in bodies if (said := server.refuses(body, NAMESPACE))] == []


OPTIONS: dict[str, list[Any]] = {
    "infra.store": ["", "s3://models/trunkline"],
    "infra.store_secret": ["", "s3-keys"],
    "infra.store_endpoint": ["", "http://minio.storage:9000"],
    "infra.storage_class": ["", "fast"],
    "infra.storage_access": ["ReadWriteMany", "ReadWriteOnce"],
    "infra.registry": ["", "registry.lab:5000/mirror"],
    "infra.offline": [False, True],
    "infra.pull_secret": ["", "registry"],
    "infra.service_account": ["", "trainer"],
    "infra.workers_per_pod": [1, 8],
    "infra.gpu_node_selector": [{}, {"nvidia.com/gpu.product": "H100"}],
    "infra.spot_node_selector": [{}, {"karpenter.sh/capacity-type": "spot"}],
    "infra.gang": [False, True],
    "infra.queue": ["", "research"],
    "infra.priority": ["", "high"],
    "infra.schedule": ["", "0 3 * * *"],
    "infra.time_zone": ["", "Europe/Paris"],
    "infra.keep_seconds": [0, 600],
    "infra.redis_address": ["", "redis:6379"],
    "infra.redis_secret": ["", "redis"],
    "scaling.num_workers": [1, 3, 16],
    "scaling.cpus_per_worker": [0.5, 4.0],
    "scaling.gpus_per_worker": [0.0, 1.0],
    "scaling.cpus_per_rollout": [0.0, 2.0],
    "scaling.gpus_per_rollout": [0.0, 0.5],
    "endpoint.gpus": [0, 2],
    "endpoint.max_replicas": [1, 4],
    "endpoint.access": [Access(), Access(keys=True, database="postgresql://keeper@db.lab/keys")],
}  # fmt: skip


def ordered(row: Row) -> Order:
    fields: dict[str, dict[str, Any]] = {"infra": {}, "scaling": {}, "endpoint": {"model": "model/x"}}
    for name, value in row.items():
        section, _, key = name.partition(".")
        fields[section][key] = value
    infra = convert(fields["infra"], InfraSpec, "infra")
    infra.check()
    return order(infra, ScalingSpec(**fields["scaling"]), EndpointSpec(**fields["endpoint"]))


def allowed(row: Row) -> bool:
    try:
        rendered(ordered(row))
    except SpecError:
        return False
    return True


def test_every_two_options_together_are_valid_here_and_there(server: Server) -> None:
    rows = pairwise(OPTIONS, allowed)
    assert len(rows) >= 8
    schemas = read_crds(CRDS)
    for row in rows:
        for index, body in enumerate(rendered(ordered(row))):
            document = Document("test.yaml", index, body)
            found = [*refused(document, schemas, Report()), *rules(document)]
            assert [problem for problem in found if problem.level == "error"] == [], row
            assert server.refuses(body, NAMESPACE) == "", row


def test_the_validator_is_as_strict_as_the_server(server: Server) -> None:
    """On mutations of what we render and of KubeRay's samples; the rules of its operator are another test's."""
    schemas = read_crds(CRDS)
    infra = InfraSpec(schedule="@daily", redis_address="redis:6379", redis_secret="redis", monitoring=True)
    bodies = [body for wanted in (order(), order(infra)) for body in rendered(wanted) if body["kind"] in PLACES]
    builtin = [body for body in bodies if body["apiVersion"] != "ray.io/v1"]
    samples = [
        d.body for d in read(CRDS.parent / "samples") if d.kind in PLACES and d.body["apiVersion"] == "ray.io/v1"
    ]
    choice = random.Random(20)
    disagree = []
    refusals = 0
    for _ in range(MUTATIONS):
        body, what = mutated(choice.choice(choice.choices((builtin, bodies, samples), (2, 1, 1))[0]), choice)
        ours = list(refused(Document("test.yaml", 0, body), schemas, Report()))
        list(rules(Document("test.yaml", 0, body)))  # whatever they find: they do not crash
        theirs = server.refuses(body, NAMESPACE)
        refusals += bool(theirs)
        if bool(ours) != bool(theirs):
            disagree.append((body["kind"], what, theirs, [(problem.field, problem.message) for problem in ours]))
    assert disagree == []
    assert MUTATIONS / 4 < refusals < MUTATIONS * 0.9  # both answers are tried


def test_ctl_applies_and_then_there_is_no_difference(server: Server, tmp_path: Any) -> None:
    infra = "infra: {name: lab, namespace: applied}\n"
    (tmp_path / "lab.yaml").write_text(infra)
    assert ctl("infra", "render", "-c", tmp_path / "lab.yaml", "--out", tmp_path / "k8s").returncode == 0
    where = (tmp_path / "k8s" / "base", "--kubeconfig", server.kubeconfig)
    done = ctl("infra", "apply", *where, "--component", "job")
    assert done.returncode == 0, done.stderr
    assert "RayJob/lab-job-pretrain is as the manifest says" in done.stdout and "RayService" not in done.stdout
    told = ctl("infra", "diff", *where, "--component", "job")
    assert (told.returncode, told.stdout) == (0, ""), told
    (tmp_path / "lab.yaml").write_text(infra.replace("applied", "applied, retries: 7"))
    assert ctl("infra", "render", "-c", tmp_path / "lab.yaml", "--out", tmp_path / "k8s").returncode == 0
    assert "+  backoffLimit: 7" in ctl("infra", "diff", *where, "--component", "job").stdout
    other = ctl("infra", "apply", *where, "--context", "elsewhere")
    assert other.returncode == 3 and "names no such cluster" in other.stderr


class Enough(Exception):
    """The line that was waited for has come."""


def test_a_job_that_waits_says_for_what(server: Server) -> None:
    api = Api(str(server.kubeconfig), namespace="waits")
    for body in placed(rendered(order(InfraSpec(namespace="waits")))):
        api.apply(body)
    lines: list[str] = []
    looks = 0

    def wait(seconds: float) -> None:
        nonlocal looks
        looks += 1
        assert looks < 120, lines
        subprocess.run(["sleep", str(seconds)], check=True)

    with pytest.raises(Enough):
        for line in follow(api, "trunkline-job-pretrain", wait):
            lines.append(line)
            if "waits for a node: no nodes available" in line:
                raise Enough
    assert any("Initializing" in line for line in lines)
    with pytest.raises(InputError, match="Did you mean 'trunkline-job-pretrain'"):
        list(follow(api, "trunkline-job-pretrian", wait))
    job = api.find({"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "trunkline-job-pretrain"}})
    assert job and "managedFields" not in json.dumps(comparable(job))


# What the operator does not tell by an event: secrets in plain sight are our rule, Kueue is not here, an application is
# looked at when a cluster runs, and an upgrade of a job's cluster is passed over.
NOT_TOLD = {
    "Redis's password in plain sight", "key in plain sight", "token in the job's environment", "secret for a replica",
    "Kueue: group called head", "Kueue: autoscaler", "Kueue: no shutdown", "upgrade of a job's cluster",
    "applications that are no YAML", "no applications", "nothing to import",
}  # fmt: skip


def test_the_operator_confirms_the_rules_that_are_its_own(server: Server) -> None:
    """Each mistake that tests/infra/test_mistakes.py plants is refused by the server, or warned of by an event."""
    server.kubectl("create", "namespace", "mistakes")
    waiting: dict[tuple[str, str], str] = {}
    for index, (name, mistake) in enumerate(BY_RULE.items()):
        body = changed(find(VALID, mistake.kind), mistake.changes)
        if "metadata.name" not in mistake.changes:
            body["metadata"]["name"] = f"mistake-{index}"
        body["metadata"]["labels"].pop("kueue.x-k8s.io/queue-name", None)
        status, answer = server.ask("POST", f"/{PLACES[mistake.kind].format('mistakes')}", body)
        assert status in (201, 422), (name, answer)
        if status == 201 and name not in NOT_TOLD:
            waiting[mistake.kind, body["metadata"]["name"]] = name
    assert len(waiting) > 30

    def told() -> bool:
        events = json.loads(server.kubectl("-n", "mistakes", "get", "events", "-o", "json"))["items"]
        warned = {
            (event["involvedObject"]["kind"], event["involvedObject"]["name"])
            for event in events
            if event["type"] == "Warning"
        }
        return waiting.keys() <= warned

    until(f"an event for each of {sorted(waiting.values())}", 120, told)
