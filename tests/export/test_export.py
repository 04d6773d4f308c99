"""The exported folder stands on its own, and its card says what the lineage knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import EvaluationSpec, ExportSpec
from pipelines.stages.export.card import license_counts
from tests.evaluation.tiny_run import make_data, make_model, write_sources

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("ray_cluster")]


def test_export(store: Store, tmp_path: Path) -> None:
    write_sources(tmp_path / "sources")
    data = make_data(store, tmp_path / "sources")
    model = make_model(store, data["tokens"], tmp_path / "model")
    inputs = {"model": model, "tokens": data["tokens"], "corpus": data["corpus"]}
    evaluation = build(EvaluationSpec(completion_tokens=4), inputs, store=store, name="tiny")
    parents = {"model": model, "evaluation": evaluation}
    made = build(ExportSpec(), parents, store=store, name="tiny")

    exported = AutoModelForCausalLM.from_pretrained(made.local())
    original = AutoModelForCausalLM.from_pretrained(model.local())
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, exported.state_dict()[name])
    text = "def function_1(value):  # 文字"
    ids = [AutoTokenizer.from_pretrained(a.local())(text)["input_ids"] for a in (model, made)]
    assert ids[0] == ids[1]
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= made.record.files.keys()

    card = made.location.read_bytes("README.md").decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "text-generation"
    assert front["license"] == "other" and "trunkline" in front["tags"]
    for artifact in (*data.values(), model, evaluation):
        assert artifact.fingerprint in card
    counts = license_counts(data["corpus"])
    assert sum(counts.values()) == data["corpus"].metrics["documents"]["train"]
    for name, number in counts.items():
        assert f"| {name} | {number} |" in card
    for outcome, number in data["corpus"].metrics["flow"].items():
        assert f"| {outcome} | {number} |" in card
    assert f"{evaluation.metrics['bits_per_byte']:.4f}" in card
    assert model.record.code.commit[:12] in card and "- seed: 3" in card

    again = build(
        ExportSpec(), {"model": model, "evaluation": evaluation}, store=Store(tmp_path / "other"), name="tiny"
    )
    assert again.record.files == made.record.files


def test_export_without_evaluation_in_half_precision(store: Store, tmp_path: Path) -> None:
    write_sources(tmp_path / "sources")
    data = make_data(store, tmp_path / "sources")
    model = make_model(store, data["tokens"], tmp_path / "model")
    made = build(ExportSpec(dtype="bfloat16"), {"model": model}, store=store, name="tiny")
    assert AutoModelForCausalLM.from_pretrained(made.local(), dtype="auto").dtype == torch.bfloat16
    assert "## Evaluation" not in made.location.read_bytes("README.md").decode()
