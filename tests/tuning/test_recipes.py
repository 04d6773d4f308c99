"""Recipes of published models, small: on some records of the real data, with a tiny model, a step or two a round."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import load_script
from pipelines.specs import ScalingSpec
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.conftest import ROOT, SHARED_DATA

SFT = SHARED_DATA / "sft"
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.skipif(not SFT.is_dir(), reason="the collection of published data is not on this machine"),
]
RECORDS = 12
HUATUO = {
    "knowledge": {"path": "huatuo/data/llama_data.json"},
    "literature": {"path": "huatuo/data-literature/liver_cancer.json"},
    **{f"{name}_sft": {"epochs": 1.0, "warmup_steps": 0} for name in ("knowledge", "literature")},
}
ADGEN = {
    "conversations": {"path": "AdvertiseGen/dev.json", "validation_path": ""},
    "sft": {
        "template": "alpaca",
        "epochs": 1.0,
        "method": {"type": "p-tuning-v2", "pre_seq_len": 8},
        "sequence_length": 248,
    },
    "generation": {"max_prompts": 1, "max_completion_tokens": 8},
}


def head(source: Path, into: Path) -> str:
    """The first records of a file of JSON lines or of a JSON array, as a file of the same name."""
    into.mkdir(exist_ok=True)
    with source.open() as file:
        found = json.load(file) if file.read(1) == "[" and not file.seek(0) else None
        file.seek(0)
        lines = list(islice(file, RECORDS))
    text = "".join(lines) if found is None else json.dumps(found[:RECORDS])
    (into / source.name).write_text(text)
    return str(into / source.name)


def ran(script: str, changes: dict[str, Any], folder: Path) -> dict[str, Artifact]:
    """What the steps of a script make, but for answers that would start vLLM."""
    write_conversations(folder / "functions.jsonl", 50)
    write_model(folder / "model", folder / "functions.jsonl")
    small = {key: dict(fields) for key, fields in changes.items()} | {"pretrained": {"source": str(folder / "model")}}
    for fields in small.values():
        if "path" in fields:
            fields |= {"path": head(SFT / fields["path"], folder / "data"), "heldout_fraction": 0.25}
    store, made = Store(folder / "artifacts"), {}
    for step in load_script(ROOT / "pipelines" / script).graph(store, small).steps:
        if step.kind != "generation" or step.key in changes:
            inputs = {name: made[given.key] for name, given in step.inputs.items()}
            scaling = ScalingSpec(num_workers=1, zero_stage=0, log_every=1)
            made[step.key] = build(step.spec, inputs, store=store, name=step.key, scaling=scaling)
    return made


def test_huatuo_goes_on_from_its_first_round_and_tells_what_it_forgot(tmp_path: Path) -> None:
    made = ran("huatuo.py", HUATUO, tmp_path)
    first, second = made["knowledge_sft"], made["literature_sft"]
    assert second.record.parents["model"].fingerprint == first.fingerprint
    assert (first.metrics["steps"], second.metrics["steps"]) == (1, 1)
    assert second.metrics["replayed"] == 1 and second.metrics["validation_loss_knowledge"] > 0
    assert {"model.safetensors", "adapter/adapter_model.safetensors"} <= second.record.files.keys()


def test_a_prefix_for_advertisements_answers_over_its_base(tmp_path: Path) -> None:
    made = ran("adgen_ptuning.py", ADGEN, tmp_path)
    assert "model.safetensors" not in made["sft"].record.files
    assert made["generation"].metrics["prompts"] == 1 and "chatglm_bleu4" in made["generation"].metrics
