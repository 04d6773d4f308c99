"""The main line, small, as a user runs it on a cluster: submit, follow, look, run again, stop, go on."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cluster.local_cluster import LocalCluster

QUICKSTART = "pipelines/quickstart.py"
SMALL = {
    "corpus.max_bytes": 600_000,
    "corpus.heldout_fraction": 0.1,
    "tokenizer.vocab_size": 512,
    "conversations.max_prompt_chars": 200,
    "pretrain.total_tokens": 16_384,
    "pretrain.model_overrides": "{hidden_size: 64, num_hidden_layers: 2, intermediate_size: 128}",
    "pretrain.warmup_steps": 4,
    "evaluation.completion_tokens": 8,
    "evaluation.heldout_bytes": 20_000,
    "rlhf.steps": 2,
    "rlhf.global_batch_size": 16,
    "rlhf.evaluation_prompts": 8,
    "rlhf.max_completion_tokens": 24,
    "quantized.report_conversations": 4,
    "quantized.report_tokens": 8,
    "comparison.prompts": 8,
    "comparison.max_completion_tokens": 24,
    "comparison.heldout_bytes": 2_000,
    "scaling.log_every": 4,
}
SETS = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
STEPS = [
    *("corpus", "tokenizer", "tokens", "pretrain", "evaluation"),
    *("conversations", "sft", "preferences", "reward", "rlhf", "quantized", "comparison", "model"),
]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2700)]


@pytest.fixture(scope="module")
def submitted(local_cluster: LocalCluster) -> str:
    """The log of the first run, followed to its end."""
    return local_cluster.ctl("submit", QUICKSTART, *SETS, timeout=2400)


def test_submit_builds_everything(local_cluster: LocalCluster, submitted: str) -> None:
    for step in STEPS:
        assert f"{step}: {step}/quickstart-" in submitted
    assert submitted.count("built in") == len(STEPS)
    refs = [item["ref"] for item in json.loads(local_cluster.ctl("artifacts", "list", "--json"))]
    assert sorted(ref.partition("/")[0] for ref in refs if "/quickstart-" in ref) == sorted(STEPS)
    assert all(wrong == [] for wrong in json.loads(local_cluster.ctl("artifacts", "verify", "--json")).values())
    metrics = json.loads(local_cluster.ctl("artifacts", "show", "evaluation/quickstart", "--json"))["metrics"]
    assert {"bits_per_byte", "xz_bits_per_byte", "ngram_bits_per_byte"} <= metrics.keys()


def test_the_model_knows_where_it_comes_from(local_cluster: LocalCluster, submitted: str) -> None:
    tree = json.loads(local_cluster.ctl("artifacts", "lineage", "model/quickstart", "--json"))
    corpus = tree
    for role in ("model", "model", "model", "tokens", "corpus"):  # of the export, of RLHF, of SFT, ...
        corpus = tree["ancestors"][corpus["parents"][role]["ref"]]
    assert corpus["spec"]["sources"][0]["reader"] == "installed-python"
    assert corpus["metrics"]["licenses"]["Apache-2.0"] > 0
    assert tree["versions"]["torch"].startswith("2.")
    card = next((local_cluster.home / "store" / "model").glob("*/README.md")).read_text()
    assert corpus["fingerprint"][:12] in card


def test_a_second_run_builds_nothing(local_cluster: LocalCluster, submitted: str) -> None:
    job = local_cluster.ctl("submit", QUICKSTART, *SETS, "--detach").strip().splitlines()[-1]
    log = local_cluster.ctl("jobs", "logs", "-f", job)
    assert log.count("is there") == len(STEPS)
    assert "built in" not in log
    here = local_cluster.ctl("demo", "--no-serve", *SETS, timeout=120)
    assert here.count("is there") == len(STEPS)
    assert "5-gram" in here
    table = here.partition("the models of the line")[2].splitlines()
    assert [line.split()[0] for line in table[2:6]] == ["base", "sft", "rlhf", "int8"]


def test_another_budget_runs_only_what_follows(local_cluster: LocalCluster, submitted: str) -> None:
    plan = json.loads(local_cluster.ctl("plan", QUICKSTART, *SETS, "--set", "pretrain.total_tokens=4096", "--json"))
    assert [item["step"] for item in plan if not item["built"]] == [
        *("pretrain", "evaluation", "sft", "reward", "rlhf", "quantized", "comparison", "model"),
    ]
    assert plan[3]["reasons"] == ["total_tokens: 16384 -> 4096"]
    assert [reason.partition(":")[0] for reason in plan[4]["reasons"]] == ["input model"]


@pytest.mark.exhaustive
def test_stop_in_the_middle_of_training(local_cluster: LocalCluster, submitted: str) -> None:
    long = [*SETS, "--set", "pretrain.total_tokens=400_000_000"]
    job = local_cluster.ctl("submit", QUICKSTART, *long, "--detach").strip().splitlines()[-1]
    with local_cluster.popen("jobs", "logs", "-f", job) as follower:
        assert follower.stdout is not None
        assert any("pretrain:" in line and "steps" in line for line in follower.stdout)
        local_cluster.ctl("jobs", "stop", job)
        follower.stdout.read()
    assert json.loads(local_cluster.ctl("jobs", "show", job, "--json"))["status"] == "STOPPED"
    plan = json.loads(local_cluster.ctl("plan", QUICKSTART, *long, "--json"))
    assert "resumes an interrupted run" in plan[3]["reasons"]


def test_generate_from_the_model(local_cluster: LocalCluster, submitted: str) -> None:
    text = local_cluster.ctl("generate", "def main(", "--model", "model/quickstart", "--max-tokens", "8")
    assert text.strip()


def test_the_script_itself_runs_too(local_cluster: LocalCluster, submitted: str) -> None:
    import sys

    from cluster.core.provenance import PROJECT_ROOT

    done = subprocess.run(
        [sys.executable, QUICKSTART, *SETS],
        env=local_cluster.environment(),
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.count("is there")) == (0, len(STEPS)), done.stderr
    assert Path(local_cluster.home / "store").is_dir()
