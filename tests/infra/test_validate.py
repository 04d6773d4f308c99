"""The validator from outside: KubeRay's own samples, what it says, and what it says it has not looked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.core.errors import InputError
from cluster.kubernetes.documents import load, read
from cluster.kubernetes.schema import Schema, check, read_crds
from cluster.kubernetes.validate import validate
from tests.cli.command import ctl
from tests.conftest import ROOT
from tests.infra.orders import changed, order, problems, rendered

MANIFESTS = ROOT / "infra" / "kuberay"

# The CEL rules of ray.io's CRDs. Those that compare with the old object have nothing to say of a new one; the others
# are rules of ours as well, which test_mistakes.py holds against mistakes.
KNOWN_CEL = {
    "self in ['ray.io/kuberay-operator', 'kueue.x-k8s.io/multikueue']",
    "!((has(self.onSuccess) || has(self.onFailure)) && has(self.deletionRules))",
    "((has(self.onSuccess) && has(self.onFailure)) || has(self.deletionRules))",
    "!(has(self.jobStatus) && has(self.jobDeploymentStatus))",
    "has(self.jobStatus) || has(self.jobDeploymentStatus)",
}


@pytest.mark.heavy
def test_no_false_alarm_on_the_samples_of_kuberay(samples: Path, schemas: dict[tuple[str, str], Schema]) -> None:
    documents = list(read(samples))
    of_ray = [document for document in documents if (document.body.get("apiVersion"), document.kind) in schemas]
    assert len(of_ray) > 80
    assert {document.kind for document in of_ray} >= {"RayCluster", "RayJob", "RayService", "RayCronJob"}
    report = validate(documents, schemas)
    assert [str(finding) for finding in report.findings if finding.problem.level == "error"] == []


def test_no_sample_passes_with_a_field_that_is_not_known(samples: Path, schemas: dict[tuple[str, str], Schema]) -> None:
    for document in read(samples):
        if schema := schemas.get((document.body.get("apiVersion", ""), document.kind)):
            document.body["spec"]["surprise"] = 1
            assert "spec.surprise" in [problem.field for problem in check(schema, document.body)], document


def test_every_cel_rule_of_the_crds_is_one_of_ours(schemas: dict[tuple[str, str], Schema]) -> None:
    def rules(schema: Any) -> set[str]:
        if isinstance(schema, list):
            return {rule for inner in schema for rule in rules(inner)}
        if not isinstance(schema, dict):
            return set()
        own = {entry["rule"] for entry in schema.get("x-kubernetes-validations", ()) if isinstance(entry, dict)}
        return own | {rule for inner in schema.values() for rule in rules(inner)}

    found = {rule for (version, _), schema in schemas.items() if version == "ray.io/v1" for rule in rules(schema)}
    assert {rule for rule in found if "oldSelf" not in rule} == KNOWN_CEL


def test_nulls_and_defaults_come_first() -> None:
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "default": 1},
                    "note": {"type": "string"},
                    "choice": {"type": "string", "nullable": True},
                },
            }
        },
    }
    assert list(check(schema, {"spec": {"size": None, "note": None, "choice": None}})) == []
    assert [problem.field for problem in check(schema, {"spec": {"size": "1"}})] == ["spec.size"]


def test_yaml_is_read_as_the_api_server_reads_it() -> None:
    (document,) = load("kind: ConfigMap\ndata: {a: on, b: 2026-01-01, c: true, d: 010}\n", "x.yaml")
    assert document.body["data"] == {"a": "on", "b": "2026-01-01", "c": True, "d": 8}
    with pytest.raises(InputError, match=r"x\.yaml:3: .*'kind' is given twice"):
        list(load("kind: A\nmetadata: {}\nkind: B\n", "x.yaml"))
    with pytest.raises(InputError, match=r"x\.yaml:1: not YAML"):
        list(load("a: [b", "x.yaml"))


@pytest.mark.heavy
def test_crds_as_kubectl_lists_them(crds: Path, tmp_path: Path) -> None:
    one = yaml.load((crds / "ray.io_rayclusters.yaml").read_text(), Loader=yaml.CSafeLoader)
    (tmp_path / "crds.yaml").write_text(yaml.dump({"kind": "List", "items": [one]}, Dumper=yaml.CSafeDumper))
    assert ("ray.io/v1", "RayCluster") in read_crds(tmp_path / "crds.yaml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no CRDs"):
        read_crds(tmp_path / "empty")


def test_kinds_without_a_schema_are_said_not_to_be_checked() -> None:
    documents = load("apiVersion: monitoring.coreos.com/v1\nkind: PodMonitor\nmetadata: {name: x}\n", "x.yaml")
    report = validate(documents, {})
    assert report.findings == [] and "PodMonitor was not checked" in report.notes[0]
    assert [problem.field for problem in problems({"metadata": {"name": "x"}})] == ["apiVersion"]


def test_ctl_names_file_document_field_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    text = (MANIFESTS / "base" / "rayjob.yaml").read_text()
    file.write_text(text.replace("backoffLimit: 2", "backoffLimit: -2"))
    done = ctl("infra", "validate", file)
    assert done.returncode == 3
    expected = f"{file}: RayJob/trunkline-job-pretrain: spec.backoffLimit: is -2. Give 0 or more."
    assert done.stdout.splitlines()[0] == expected
    assert "KubeRay's schemas were not checked" in done.stdout and "kubectl get crd" in done.stdout
    assert "1 errors in 2 manifests" in done.stderr
    (found,) = json.loads(ctl("infra", "validate", file, "--json").stdout)["findings"]
    assert (found["field"], found["level"]) == ("spec.backoffLimit", "error")
    none = ctl("infra", "validate", tmp_path / "none.yaml")
    assert none.returncode == 3 and "none.yaml: No such file" in none.stderr
    file.write_text(text)
    assert ctl("infra", "validate", file).returncode == 0


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=8), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, str(key).replace(".", "|"))))]


VALID = [body for body in rendered(order()) if body["apiVersion"] == "ray.io/v1"]


@pytest.mark.heavy
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), junk=JUNK)
def test_junk_anywhere_is_a_finding_and_no_crash(
    schemas: dict[tuple[str, str], Schema], data: st.DataObject, junk: Any
) -> None:
    body = data.draw(st.sampled_from(VALID))
    place = data.draw(st.sampled_from([place for place in places(body) if place]))
    broken = changed(body, {".".join(place): junk})
    for finding in problems(broken) + problems(broken, schemas=schemas):
        assert finding.field and finding.message and finding.remedy
