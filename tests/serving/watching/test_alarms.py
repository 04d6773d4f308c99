"""Alarms: each has a remedy in the docs, and is of figures that an endpoint has."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

import serving.watching.counted  # noqa: F401 - its figures are looked up
from tests.conftest import ROOT

FILE = ROOT / "infra/prometheus/alerts.yaml"
RULES = [rule for group in yaml.safe_load(FILE.read_text())["groups"] for rule in group["rules"]]
DOCS = (ROOT / "docs/operations.md").read_text()
METRIC = re.compile(r"\b(?:vllm:|trunkline_)[a-z_]+")
LABELS = {"endpoint", "instance", "artifact", "le", "status", "job"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_each_alarm_has_its_remedy_in_the_docs(rule: dict[str, object]) -> None:
    """A row of the table: what it means, and what to do."""
    rows = [line for line in DOCS.splitlines() if line.startswith(f"| `{rule['alert']}` |")]
    assert len(rows) == 1
    _, _, means, do, _ = rows[0].split("|")
    assert len(means.strip()) > 20 and len(do.strip()) > 20


def test_no_remedy_is_of_an_alarm_that_is_not_there() -> None:
    told = set(re.findall(r"^\| `(Trunkline\w+)` \|", DOCS, re.MULTILINE))
    assert told == {rule["alert"] for rule in RULES} and len(RULES) == len(told)


def test_alarms_are_of_figures_that_there_are() -> None:
    spec = find_spec("vllm")
    assert spec and spec.origin
    engine = (Path(spec.origin).parent / "v1/metrics/loggers.py").read_text()
    own = {family.name for family in REGISTRY.collect()}
    for rule in RULES:
        found = METRIC.findall(rule["expr"])
        assert found or rule["expr"].startswith("up{")
        for name in found:
            plain = name.removesuffix("_bucket").removesuffix("_total")
            assert plain in own if name.startswith("trunkline_") else f'"{plain}"' in engine, name
        for labels in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(labels.split(", ")) <= LABELS


def test_prometheus_reads_them() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "rules", str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
