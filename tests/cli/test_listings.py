"""Every listing, as a table and as JSON; aliases, export, completion of the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.core.build import build
from cluster.core.specs.spec import fields
from cluster.core.storage.store import Store
from pipelines.specs import SPECS
from tests.cli.command import ctl
from tests.core.toys import CountSpec, WordsSpec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    store = Store(tmp_path / "artifacts")
    words = build(WordsSpec(), {}, store=store, name="toy")
    build(CountSpec(), {"words": words}, store=store, name="toy")
    return tmp_path / "artifacts"


@pytest.mark.heavy
def test_artifacts(root: Path, tmp_path: Path) -> None:
    store = ("--store", root)
    listed = json.loads(ctl("artifacts", "list", "--json", *store).stdout)
    assert [item["ref"].split("-")[0] for item in listed] == ["words/toy", "count/toy"]
    assert "words/toy" in ctl("artifacts", "list", *store).stdout

    assert ctl("artifacts", "alias", "best@prod", "count/toy", *store).returncode == 0
    assert json.loads(ctl("artifacts", "show", "best@prod", "--json", *store).stdout)["metrics"] == {"count": 2}
    assert json.loads(ctl("artifacts", "list", "--json", *store).stdout)[1]["alias"] == "best@prod"
    tree = json.loads(ctl("artifacts", "lineage", "best@prod", "--json", *store).stdout)
    assert tree["ancestors"][tree["parents"]["words"]["ref"]]["spec"]["words"] == ["one", "two"]
    assert "words: words/toy" in ctl("artifacts", "lineage", "best@prod", *store).stdout

    folder = tmp_path / "exported"
    assert ctl("artifacts", "export", "best@prod", folder, *store).returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == ["count.txt", "trunkline.json"]
    assert ctl("artifacts", "export", "best@prod", folder, *store).returncode == 3

    words, count = (item["ref"] for item in listed)
    assert set(json.loads(ctl("artifacts", "diff", words, count, "--json", *store).stdout)) >= {"spec", "metrics"}
    assert json.loads(ctl("artifacts", "verify", "--json", *store).stdout) == {words: [], count: []}
    ctl("artifacts", "alias", "best@prod", words, *store)
    assert ctl("artifacts", "gc", "--older-than-days", "0", *store).stdout.count("count/toy") == 1
    assert ctl("artifacts", "gc", "--older-than-days", "0", "--yes", *store).returncode == 0
    assert [item["ref"] for item in json.loads(ctl("artifacts", "list", "--json", *store).stdout)] == [words]
    assert ctl("artifacts", "alias", "--remove", "best@prod", *store).returncode == 0
    assert json.loads(ctl("artifacts", "alias", "--json", *store).stdout) == {}


@pytest.mark.heavy
def test_specs(tmp_path: Path) -> None:
    assert {item["kind"] for item in json.loads(ctl("spec", "list", "--json").stdout)} == set(SPECS)
    schema = json.loads(ctl("spec", "schema", "corpus").stdout)
    assert schema["$defs"]["CorpusSpec"]["additionalProperties"] is False
    config = tmp_path / "run.yaml"
    config.write_text("pretrain: {learning_rate: 1e-3}\n")
    resolved = json.loads(ctl("spec", "validate", config, "--json").stdout)
    assert resolved["pretrain"] == {**fields(SPECS["pretrain"]()), "learning_rate": 1e-3}


@pytest.mark.heavy
@pytest.mark.parametrize("script", ["quickstart", "codeparrot", "pretrain"])
def test_every_pipeline_can_be_planned(script: str, tmp_path: Path) -> None:
    done = ctl("plan", f"pipelines/{script}.py", "--json", "--store", tmp_path, RAY_ADDRESS="elsewhere:6379")
    plan = json.loads(done.stdout)
    steps = ["corpus", "tokenizer", "tokens", "pretrain", "evaluation"]
    if script == "quickstart":
        steps += ["conversations", "sft", "preferences", "reward", "rlhf", "quantized", "comparison"]
    assert [item["step"] for item in plan] == [*steps, "model"]
    assert not any(item["built"] for item in plan)
    assert not any(tmp_path.iterdir())


def test_shell_completion() -> None:
    done = ctl(_CTL_COMPLETE="complete_bash", COMP_WORDS="ctl ar", COMP_CWORD="1")
    assert done.stdout.split() == ["artifacts"]
    assert (
        "_CTL_COMPLETE"
        in ctl("--show-completion", "bash", SHELL="/bin/bash").stdout + ctl(_CTL_COMPLETE="source_bash").stdout
    )
