"""The generation stage: a model's answers beside the references, as results that can be compared."""

from __future__ import annotations

import json

import msgspec
import pytest

from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import GenerationSpec, ScalingSpec
from pipelines.stages.evaluation.results import Outcome, Results
from tests.evaluation.tiny_model import tiny_conversations, tiny_model

pytestmark = pytest.mark.heavy

pytest.importorskip("rouge_score")
pytest.importorskip("sacrebleu")


def test_answers_are_scored(store: Store, ray_cluster: None) -> None:
    inputs = {"model": tiny_model(store), "prompts": tiny_conversations(store)}
    spec = GenerationSpec(max_prompts=3, max_completion_tokens=8)
    made = build(spec, inputs, store=store, name="x", scaling=ScalingSpec(rollout_workers=1))
    folder = made.local()
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    heldout = (inputs["prompts"].local() / "heldout.jsonl").read_text().splitlines()
    assert [row["reference"] for row in rows] == [json.loads(line)["messages"][1]["content"] for line in heldout[:3]]
    report = msgspec.json.decode((folder / "results.json").read_bytes(), type=Results)
    assert report.model == inputs["model"].record.ref
    assert {result.metric for result in report.results} == {"rouge1", "rouge2", "rougeL", "bleu4", "bleu4_sentence"}
    assert {result.samples for result in report.results} == {3}
    outcomes = msgspec.json.Decoder(Outcome).decode_lines((folder / "samples.jsonl").read_bytes())
    assert len(outcomes) == 3 * 4
    assert {outcome.id for outcome in outcomes} == {row["id"] for row in rows}
    assert made.metrics["prompts"] == 3
