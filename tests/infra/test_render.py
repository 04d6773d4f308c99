"""What `ctl infra render` writes: valid, complete, the same every time, and what the specs ask for."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.core.errors import InputError, SpecError
from cluster.core.specs.access import Access
from cluster.core.specs.spec import convert, fields
from cluster.kubernetes.context import as_scaled
from cluster.kubernetes.documents import read
from cluster.kubernetes.objects import RAY_VERSION, Order
from cluster.kubernetes.schema import Schema
from cluster.kubernetes.tree import OVERLAYS, difference, manifests, tree, with_gpus, write
from pipelines.specs import EndpointSpec, InfraSpec, ScalingSpec
from tests.cli.command import ctl
from tests.conftest import ROOT
from tests.infra.orders import Body, changed, find, order, problems, rendered

pytestmark = pytest.mark.heavy

COMMITTED = ROOT / "infra" / "kuberay"
RAY_KINDS = ("RayCluster", "RayJob", "RayService")

S3 = InfraSpec(
    name="lab",
    namespace="nlp",
    image="registry.example/trunkline:cpu",
    pull_secret="registry",
    service_account="trainer",
    store="s3://models/trunkline",
    store_secret="s3-keys",
    store_endpoint="http://minio.storage:9000",
    workers_per_pod=8,
    gpu_node_selector={"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"},
    queue="research",
    redis_address="redis:6379",
    redis_secret="redis",
)
GPUS = ScalingSpec(num_workers=16, gpus_per_worker=1, cpus_per_worker=8, rollout_workers=4, gpus_per_rollout=0.5)
SERVING = EndpointSpec(model="chat@prod", gpus=2, cpus=4, min_replicas=1, max_replicas=4, accelerator_type="H100")
ORDERS = {
    "defaults": order(),
    "defaults with GPUs": with_gpus(order()),
    "a lab with S3, GPUs, Kueue and Redis": order(S3, GPUS, SERVING),
}


def pods(spec: Body) -> list[Body]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def cluster_specs(bodies: list[Body]) -> list[Body]:
    job, service = find(bodies, "RayJob")["spec"], find(bodies, "RayService")["spec"]
    return [find(bodies, "RayCluster")["spec"], job["rayClusterSpec"], service["rayClusterConfig"]]


@pytest.mark.parametrize("name", ORDERS)
def test_all_manifests_are_valid(name: str, schemas: dict[tuple[str, str], Schema]) -> None:
    assert problems(*rendered(ORDERS[name]), schemas=schemas) == []


def test_what_is_committed_is_what_is_rendered(tmp_path: Path) -> None:
    done = ctl("infra", "render", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    new = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.yaml")}
    old = {path.relative_to(COMMITTED): path.read_text() for path in COMMITTED.rglob("*.yaml")}
    assert new == old, "a spec has changed: run `ctl infra render --out infra/kuberay`"
    assert len(new) == len(done.stdout.splitlines()) == 12


def kustomize(folder: Path) -> list[Body]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not on the PATH")
    done = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def by_name(bodies: list[Body], namespace: str = "") -> dict[tuple[str, str], Body]:
    """With the namespace that kustomize puts in."""
    named = {}
    for body in bodies:
        metadata = dict(body["metadata"])
        if namespace and body["kind"] != "Namespace":
            metadata["namespace"] = namespace
        named[body["kind"], metadata["name"]] = {**body, "metadata": metadata}
    return named


@pytest.mark.parametrize("wanted", [order(), order(S3, GPUS, SERVING)], ids=["defaults", "lab"])
def test_kustomize_makes_of_the_tree_what_was_ordered(
    wanted: Order, tmp_path: Path, schemas: dict[tuple[str, str], Schema]
) -> None:
    write(tree(wanted), tmp_path)
    namespace = wanted.infra.namespace
    base = kustomize(tmp_path / "base")
    assert by_name(base) == by_name(rendered(wanted), namespace)
    assert problems(*base, schemas=schemas) == []
    for name, overlay in OVERLAYS.items():
        made = kustomize(tmp_path / "overlays" / name)
        assert by_name(made) == by_name(rendered(overlay.change(wanted)), namespace), name
        assert problems(*made, schemas=schemas) == []


def test_the_gpu_overlay_asks_for_gpus_everywhere() -> None:
    bodies = rendered(with_gpus(order()))
    for spec in cluster_specs(bodies):
        head, *workers = pods(spec)
        assert all(pod["containers"][0]["image"] == "trunkline:cuda" for pod in (head, *workers))
        for pod in workers:
            assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
            assert "nvidia.com/gpu" in [toleration["key"] for toleration in pod["tolerations"]]
    run = yaml.safe_load(find(bodies, "ConfigMap")["data"]["run.yaml"])
    assert run["scaling"]["gpus_per_worker"] == 1.0


def test_engines_beside_workers_get_neither_pods_nor_gpus_of_their_own() -> None:
    beside = order(scaling=ScalingSpec(num_workers=2, cpus_per_rollout=2, colocated_fraction=0.4))
    for wanted in (beside, with_gpus(beside)):
        wanted.scaling.check()
        job = find(rendered(wanted), "RayJob")["spec"]["rayClusterSpec"]
        (workers,) = job["workerGroupSpecs"]
        limits = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["cpu"]) >= wanted.scaling.cpus_per_worker + 2 + 1, "a worker, its engine, and what helps"


def test_what_is_applied_again_keeps_the_workers_that_the_autoscaler_made() -> None:
    wanted = find(rendered(order(scaling=ScalingSpec(num_workers=8))), "RayCluster")
    there = changed(wanted, {"spec.workerGroupSpecs.0.replicas": 5})
    assert as_scaled(wanted, there) == there
    there["spec"]["workerGroupSpecs"][0]["groupName"] = "of before"
    assert as_scaled(wanted, there) == wanted


@pytest.mark.parametrize("name", ORDERS)
def test_every_pod_is_closed_bounded_and_accounted_for(name: str) -> None:
    bodies = rendered(ORDERS[name])
    job = find(bodies, "RayJob")["spec"]
    templates = [pod for spec in cluster_specs(bodies) for pod in pods(spec)]
    for pod in [*templates, job["submitterPodTemplate"]["spec"]]:
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    for spec in cluster_specs(bodies):
        assert spec["authOptions"] == {"mode": "token"} and spec["rayVersion"] == RAY_VERSION
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        head, *workers = pods(spec)
        assert head.get("automountServiceAccountToken", True) is bool(spec.get("enableInTreeAutoscaling"))
        for pod in workers:
            assert pod["automountServiceAccountToken"] is False
            stop = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1]
            assert sum(map(int, re.findall(r"\d+", stop))) < pod["terminationGracePeriodSeconds"]


def test_a_lost_node_holds_no_pod_and_a_finished_job_no_worker() -> None:
    """Kubernetes' own five minutes, and an hour of workers beside a job that has ended, are nobody's wish."""
    for spec in cluster_specs(rendered(order(InfraSpec(node_loss_seconds=7)))):
        for pod in pods(spec):
            tolerated = {each["key"]: each.get("tolerationSeconds") for each in pod["tolerations"]}
            assert {tolerated[f"node.kubernetes.io/{taint}"] for taint in ("not-ready", "unreachable")} == {7}
    assert InfraSpec().node_loss_seconds < 60
    at_once = find(rendered(order()), "RayJob")["spec"]
    assert (at_once["shutdownAfterJobFinishes"], at_once["ttlSecondsAfterFinished"]) == (True, 0)
    looked_at = find(rendered(order(InfraSpec(keep_seconds=600))), "RayJob")["spec"]["deletionStrategy"]
    after = [(rule["policy"], rule["condition"]["ttlSeconds"]) for rule in looked_at["deletionRules"]]
    assert set(after) == {("DeleteWorkers", 0), ("DeleteCluster", 600)} and len(after) == 6


def test_ray_is_the_locked_one() -> None:
    assert f"ray=={RAY_VERSION}" in (ROOT / "requirements" / "cpu.lock").read_text().splitlines()


@settings(max_examples=50)
@given(
    workers=st.integers(1, 64),
    cpus=st.floats(0.25, 16),
    gpus=st.integers(0, 4),
    data=st.integers(1, 64),
    together=st.integers(1, 8),
    rollouts=st.integers(1, 8),
    rollout_cpus=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_a_job_has_room_for_what_it_runs(
    workers: int, cpus: float, gpus: int, data: int, together: int, rollouts: int, rollout_cpus: float
) -> None:
    scaling = ScalingSpec(
        num_workers=workers,
        cpus_per_worker=cpus,
        gpus_per_worker=gpus,
        data_workers=data,
        rollout_workers=rollouts,
        cpus_per_rollout=rollout_cpus,
    )
    bodies = rendered(order(InfraSpec(workers_per_pod=together), scaling))
    assert problems(*(body for body in bodies if body["kind"] in RAY_KINDS)) == []
    groups = find(bodies, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
    per_pod = min(together, workers)
    # Ranks are placed whole: every pod must hold its share of them, and one core beside.
    assert int(limits[0]["cpu"]) >= per_pod * cpus + 1
    assert int(limits[0].get("nvidia.com/gpu", 0)) == per_pod * gpus
    assert groups[0]["replicas"] == groups[0]["maxReplicas"] == math.ceil(workers / per_pod)
    assert int(limits[0]["cpu"]) * groups[0]["replicas"] >= data
    assert len(groups) == (2 if rollout_cpus else 1)
    # A place for a rank is what lets it in: no pod takes the ranks of two, and so none is left without.
    brought = [yaml.safe_load(yaml.safe_load(group["rayStartParams"]["resources"])) for group in groups]
    assert brought[0] == {"trunkline_rank": per_pod}
    assert (groups[0]["replicas"] - 1) * per_pod < workers <= groups[0]["replicas"] * per_pod
    if rollout_cpus:
        assert groups[1]["replicas"] == rollouts and int(limits[1]["cpu"]) >= rollout_cpus


@pytest.mark.parametrize("name", ORDERS)
def test_a_cluster_that_grows_says_to_what(name: str) -> None:
    """Jobs that wait for their turn count what the autoscaler may add: it adds nothing that nobody asks for."""
    spec = find(rendered(ORDERS[name]), "RayCluster")["spec"]
    most = {"CPU": 0, "GPU": 0}
    for group in spec["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        most["CPU"] += group["maxReplicas"] * int(limits["cpu"])
        most["GPU"] += group["maxReplicas"] * int(limits.get("nvidia.com/gpu", 0))
    head = {each["name"]: each.get("value") for each in pods(spec)[0]["containers"][0]["env"]}
    assert json.loads(head["TRUNKLINE_GROWS_TO"]) == most


def test_the_lab_gets_its_store_its_nodes_and_its_queue() -> None:
    bodies = rendered(order(S3, GPUS, SERVING))
    assert "PersistentVolumeClaim" not in [body["kind"] for body in bodies]
    assert find(bodies, "RayJob")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    for spec in cluster_specs(bodies):
        for pod in pods(spec):
            (container,) = pod["containers"]
            variables = {entry["name"]: entry["value"] for entry in container["env"]}
            assert variables["TRUNKLINE_STORE"] == "s3://models/trunkline"
            assert variables["AWS_ENDPOINT_URL"] == "http://minio.storage:9000"
            assert container["envFrom"] == [{"secretRef": {"name": "s3-keys"}}]
            assert pod["serviceAccountName"] == "trainer"
            assert not [volume for volume in pod.get("volumes", ()) if "persistentVolumeClaim" in volume]
    service = find(bodies, "RayService")["spec"]["rayClusterConfig"]
    assert service["autoscalerOptions"]["version"] == "v2"
    assert service["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "redis"
    (replicas,) = service["workerGroupSpecs"]
    assert (replicas["minReplicas"], replicas["maxReplicas"]) == (1, 4)
    workers, rollouts = find(bodies, "RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["replicas"] == 2 and workers["template"]["spec"]["nodeSelector"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "8"
    assert rollouts["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    ports = [
        port["port"]
        for body in bodies
        if body["kind"] == "NetworkPolicy"
        for rule in body["spec"].get("egress", ())
        for port in rule.get("ports", ())
    ]
    assert {53, 443, 9000, 6379} <= set(ports)


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_every_pod_is_closed_and_reaches_its_own() -> None:
    bodies = rendered(order())
    policies = [body["spec"] for body in bodies if body["kind"] == "NetworkPolicy"]
    budgets = [body["spec"] for body in bodies if body["kind"] == "PodDisruptionBudget"]
    for kind, spec in zip(RAY_KINDS, cluster_specs(bodies), strict=True):
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            labels = group["template"]["metadata"]["labels"]
            chosen = [policy for policy in policies if selects(policy["podSelector"]["matchLabels"], labels)]
            closed = [policy for policy in chosen if "ingress" not in policy and "egress" not in policy]
            assert closed[0]["policyTypes"] == ["Ingress", "Egress"], kind
            own = [
                policy
                for policy in chosen
                if any(
                    selects(peer["podSelector"]["matchLabels"], labels)
                    for rule in policy.get("egress", ())
                    for peer in rule.get("to", ())
                )
            ]
            assert len(own) == 1 and own[0]["ingress"][0]["from"] == own[0]["egress"][0]["to"]
        head = spec["headGroupSpec"]["template"]["metadata"]["labels"] | {"ray.io/node-type": "head"}
        assert len([b for b in budgets if selects(b["selector"]["matchLabels"], head)]) == 1


def test_the_job_runs_the_pipeline_as_it_was_resolved(tmp_path: Path) -> None:
    config = tmp_path / "lab.yaml"
    config.write_text(
        "pretrain: {total_tokens: 5e6, seed: 3}\nscaling: {num_workers: 4}\n"
        "infra: {name: lab}\nendpoint: {max_replicas: 2}\n"
    )
    done = ctl("infra", "render", "-c", config, "--set", "pretrain.seed=4", "--name", "Big.Run", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    run, job = yaml.safe_load_all((tmp_path / "base" / "rayjob.yaml").read_text())
    assert job["metadata"]["name"] == run["metadata"]["name"] == "lab-job-big-run"
    command = job["spec"]["entrypoint"].split()
    assert command[-4:] == ["--config", "/etc/trunkline/run.yaml", "--name", "Big.Run"]
    assert (ROOT / Path(command[1]).relative_to("/home/trunkline/app")).is_file()
    resolved = tmp_path / "run.yaml"
    resolved.write_text(run["data"]["run.yaml"])
    assert yaml.safe_load(resolved.read_text())["scaling"]["num_workers"] == 4

    def fingerprints(*arguments: Any) -> dict[str, str]:
        told = ctl("plan", "pipelines/pretrain.py", "--json", "--store", tmp_path / "artifacts", *arguments)
        assert told.returncode == 0, told.stderr
        return {item["step"]: item["fingerprint"] for item in json.loads(told.stdout)}

    wanted = ("--set", "pretrain.total_tokens=5e6", "--set", "pretrain.seed=4")
    assert fingerprints("--config", resolved) == fingerprints(*wanted)
    service = yaml.safe_load((tmp_path / "base" / "rayservice.yaml").read_text())
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert application["args"]["model"] == "model/Big.Run"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--set", "infra.nmae=x"), "infra.nmae: unknown field. Did you mean 'name'?"),
        (("--set", "infra.name=Lab"), "infra.name"),
        (("--set", "infra.store=/data"), "infra.store: '/data' is not a URL"),
        (("--set", "infra.store_secret=x"), "infra.store_secret: the store is a volume"),
        (("--set", "infra.redis_address=redis:6379"), "goes with redis_secret"),
        (("--set", "infra.redis_address=redis:99999", "--set", "infra.redis_secret=x"), "a port of 1 to 65535"),
        (("--set", "infra.namespace=kube-system"), "infra.namespace: 'kube-system' is Kubernetes' own"),
        (("--set", "infra.pipeline=pipelines/none.py"), "no such file"),
        (("--set", "scaling.num_workers=3"), "32 sequences do not divide among 3 workers"),
        (("--set", "endpoint.port=8265"), "endpoint.port: 8265 is Ray's own (dashboard)"),
        (("--set", "endpoint.max_replicas=0"), "endpoint"),
        (("--set", "pretran.seed=1"), "Did you mean 'pretrain'?"),
        (("--name", "x" * 40), "longer than KubeRay's 47 characters"),
    ],
)
def test_wrong_orders_are_refused_before_anything_is_written(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = ctl("infra", "render", "--out", tmp_path / "out", *arguments)
    assert done.returncode == 3
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_files_of_others_are_left_alone_and_old_ones_of_ours_go(tmp_path: Path) -> None:
    write(tree(order()), tmp_path)
    assert (tmp_path / "base" / "storage.yaml").exists()
    write(tree(order(S3)), tmp_path)
    assert not (tmp_path / "base" / "storage.yaml").exists()
    (tmp_path / "base" / "mine.yaml").write_text("kind: ConfigMap\n")
    with pytest.raises(InputError, match=r"mine\.yaml was not written by"):
        write(tree(order()), tmp_path)


def test_a_difference_is_a_json_patch() -> None:
    old = {"a/b": 1, "same": [1, 2], "list": [1], "gone": None, "deep": [{"x": "1"}]}
    new = {"a/b": 2, "same": [1, 2], "list": [1, 2], "new~": 3, "deep": [{"x": "2"}]}
    assert list(difference(old, new)) == [
        {"op": "replace", "path": "/a~1b", "value": 2},
        {"op": "replace", "path": "/list", "value": [1, 2]},
        {"op": "remove", "path": "/gone"},
        {"op": "replace", "path": "/deep/0/x", "value": "2"},
        {"op": "add", "path": "/new~0", "value": 3},
    ]


def test_every_order_has_the_same_files_but_the_volume() -> None:
    plain, lab = manifests(order()), manifests(order(S3))
    assert plain.keys() - lab.keys() == {"storage.yaml"}
    assert convert(fields(S3), InfraSpec, "infra") == S3
    with pytest.raises(SpecError, match="infra"):
        convert({"namespace": "Not a label"}, InfraSpec, "infra")


def test_the_example_of_the_documentation(tmp_path: Path, schemas: dict[tuple[str, str], Schema]) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "lab.yaml").write_text(textwrap.dedent(f"   {example}"))
    done = ctl("infra", "render", "-c", tmp_path / "lab.yaml", "--name", "first", "--out", tmp_path / "k8s")
    assert done.returncode == 0, done.stderr
    bodies = [document.body for document in read(tmp_path / "k8s")]
    assert problems(*bodies, schemas=schemas) == []
    job = find(bodies, "RayJob")["metadata"]
    assert f"job/{job['name']}" in text
    for name in ("trunkline-endpoint-serve-svc", "app.kubernetes.io/component in (common, job)"):
        assert name in text
    assert "trunkline-head-svc" in (ROOT / "docs" / "clusters.md").read_text()
    components = {body["metadata"]["labels"]["app.kubernetes.io/component"] for body in bodies}
    assert components == {"common", "cluster", "job", "endpoint"}


def test_keys_of_pods_are_in_postgresql() -> None:
    def asks(**access: Any) -> Order:
        return order(endpoint=EndpointSpec(model="model/x", access=Access(keys=True, **access)))

    with pytest.raises(SpecError, match="one pod's alone"):
        rendered(asks())
    bodies = rendered(asks(database="postgresql://keeper@db.lab:6543/keys"))
    policy = next(body for body in bodies if body["metadata"]["name"].endswith("keys"))
    assert policy["spec"]["egress"] == [{"ports": [{"protocol": "TCP", "port": 6543}]}]
    assert policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "endpoint"
    with pytest.raises(SpecError, match="Ingress"):
        rendered(order(endpoint=EndpointSpec(model="x", access=Access(tls_certificate="c", tls_key="k"))))
    with pytest.raises(SpecError, match=r"endpoint\.scorer"):
        rendered(order(endpoint=EndpointSpec(model="x", scorer="judge")))
