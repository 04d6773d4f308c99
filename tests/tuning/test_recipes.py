"""Recipes of published models, small: on some records of the real data, with a tiny model, a step or two a round."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import load_script
from pipelines.specs import PretrainedSpec, ScalingSpec
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
POSITIONS = 4096  # a tool's description is long in pieces of few letters
SMALL = {"epochs": 1.0, "global_batch_size": 4}
ALPACA = "stanford_alpaca/alpaca_5000.json"
DOCTOR = "chatdoctor/chatdoctor5k.json"
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
Record = dict[str, Any]


def as_it_is(record: Record) -> Record:
    return record


def as_icliniq(record: Record) -> Record:
    return {"input": record["input"], "answer_icliniq": record["output"]}


def head(source: Path, into: Path, begin: int = 0, change: Callable[[Record], Record] = as_it_is) -> str:
    """Some records of a file of JSON lines or of a JSON array, or files of a folder, as a path of the same name."""
    place = into / str(begin) / source.name
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        place.mkdir()
        for one in sorted(source.rglob("*.json"))[begin : begin + RECORDS]:
            shutil.copy(one, place)
        return str(place)
    with source.open() as file:
        found = json.load(file) if file.read(1) == "[" and not file.seek(0) else None
        file.seek(0)
        lines = list(islice(file, begin, begin + RECORDS)) if found is None else []
    records = [json.loads(line) for line in lines] if found is None else found[begin : begin + RECORDS]
    changed = [change(record) for record in records]
    place.write_text("".join(json.dumps(record) + "\n" for record in changed) if found is None else json.dumps(changed))
    return str(place)


def write_base(folder: Path, neox: bool = False) -> str:
    """A tiny Llama or, as Pythia is one, GPT-NeoX."""
    write_conversations(folder / "functions.jsonl", 50)
    write_model(folder / "model", folder / "functions.jsonl", POSITIONS)
    if neox:
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = GPTNeoXConfig(vocab_size=300, max_position_embeddings=POSITIONS, eos_token_id=0, **sizes)
        GPTNeoXForCausalLM(config).save_pretrained(folder / "model")
    return str(folder / "model")


def ran(script: str, changes: dict[str, Any], store: Store, base: str) -> dict[str, Artifact]:
    """What the steps of a script make, but for answers that would start vLLM. A path is one within the collection, and
    may have behind it where its records begin, and what is made of each."""
    small = {key: dict(fields) for key, fields in changes.items()}
    if "sft" not in small or "inputs" not in small["sft"]:
        small["pretrained"] = {"source": base}
    for fields in small.values():
        if "path" in fields:
            path, *how = fields["path"] if isinstance(fields["path"], tuple) else (fields["path"],)
            fields |= {"path": head(SFT / path, Path(base).parent / "data", *how), "heldout_fraction": 0.25}
    made: dict[str, Artifact] = {}
    for step in load_script(ROOT / "pipelines" / script).graph(store, small).steps:
        if step.kind != "generation" or step.key in changes:
            inputs = {name: made[given.key] if hasattr(given, "key") else given for name, given in step.inputs.items()}
            scaling = ScalingSpec(num_workers=1, zero_stage=0, log_every=1)
            made[step.key] = build(step.spec, inputs, store=store, name=step.key, scaling=scaling)
    return made


def test_huatuo_goes_on_from_its_first_round_and_tells_what_it_forgot(store: Store, tmp_path: Path) -> None:
    made = ran("huatuo.py", HUATUO, store, write_base(tmp_path))
    first, second = made["knowledge_sft"], made["literature_sft"]
    assert second.record.parents["model"].fingerprint == first.fingerprint
    assert (first.metrics["steps"], second.metrics["steps"]) == (1, 1)
    assert second.metrics["replayed"] == 1 and second.metrics["validation_loss_knowledge"] > 0
    assert {"model.safetensors", "adapter/adapter_model.safetensors"} <= second.record.files.keys()


def test_a_prefix_for_advertisements_answers_over_its_base(store: Store, tmp_path: Path) -> None:
    made = ran("adgen_ptuning.py", ADGEN, store, write_base(tmp_path))
    assert "model.safetensors" not in made["sft"].record.files
    assert made["generation"].metrics["prompts"] == 1 and "chatglm_bleu4" in made["generation"].metrics


@pytest.mark.exhaustive
def test_alpaca_by_low_rank_updates(store: Store, tmp_path: Path) -> None:
    made = ran("chatglm_lora.py", {"conversations": {"path": ALPACA}, "sft": SMALL}, store, write_base(tmp_path))
    tuned = made["sft"]
    config = json.loads(tuned.location.read_bytes("adapter/adapter_config.json"))
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 32, 0.1)
    assert config["base_model_name_or_path"] == made["pretrained"].record.ref
    before, after = (load_file(one.local() / "model.safetensors") for one in (made["pretrained"], tuned))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if "_proj" in name}
    assert tuned.metrics["steps"] == -(-tuned.metrics["conversations"] // SMALL["global_batch_size"])


@pytest.mark.exhaustive
def test_chatdoctor_learns_in_rounds_and_its_card_tells_of_each(store: Store, tmp_path: Path) -> None:
    rounds = ("alpaca", "genmedgpt", "healthcaremagic", "icliniq")
    paths = ((ALPACA,), (DOCTOR,), (DOCTOR, RECORDS), (DOCTOR, 2 * RECORDS, as_icliniq))
    changes: dict[str, Any] = {name: {"path": path} for name, path in zip(rounds, paths, strict=True)}
    changes |= {f"{name}_sft": SMALL | ({"replay_fraction": 0.25} if name != "alpaca" else {}) for name in rounds}
    made = ran("chatdoctor.py", changes, store, write_base(tmp_path))
    base = made["pretrained"]
    for number, name in enumerate(rounds):
        tuned = made[f"{name}_sft"]
        assert tuned.record.parents["model"].fingerprint == base.fingerprint
        told = {key for key in tuned.metrics if key.startswith("validation_loss_")}
        assert told == {f"validation_loss_{before}" for before in rounds[:number]}
        assert tuned.metrics.get("replayed", 0) == (0, 3, 4, 3)[number]  # beside nine, of each earlier round as many
        base = tuned
    card = made["model"].location.read_bytes("README.md").decode()
    forgetting = card.partition("### Forgetting")[2].partition("\n#")[0]
    assert "after round 4" in forgetting and "alpaca_5000.json" in forgetting and "CC-BY-NC-4.0" in card


@pytest.mark.exhaustive
def test_moss_learns_to_call_plug_ins(store: Store, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = ran("moss_plugins.py", {"conversations": {"path": "moss"}, "sft": SMALL}, store, write_base(tmp_path))
    tuned = made["sft"]
    assert tuned.metrics["conversations"] > 0 and not tuned.metrics["refused"]
    tokenizer = AutoTokenizer.from_pretrained(tuned.local())
    call = {"type": "function", "function": {"name": "Search", "arguments": {"query": "rain"}}}
    asked = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert '<|Commands|>: Search("rain")<eoc>' in tokenizer.apply_chat_template(asked, tokenize=False)
    rows = load_file(tuned.local() / "model.safetensors")["model.embed_tokens.weight"]
    assert len(rows) == len(tokenizer) > 300  # those of the template's tokens are learned besides


@pytest.mark.exhaustive
def test_dolly_tunes_pythias_family_and_writes_its_card(store: Store, tmp_path: Path) -> None:
    path = "dolly_hhrlhf/dolly_hhrlhf_train_small.jsonl"
    made = ran("dolly.py", {"conversations": {"path": path}, "sft": SMALL}, store, write_base(tmp_path, neox=True))
    assert made["sft"].metrics["trained_parameters"] == made["sft"].metrics["parameters"]
    config = json.loads(made["model"].location.read_bytes("config.json"))
    assert config["architectures"] == ["GPTNeoXForCausalLM"]
    assert "CC-BY-SA-3.0" in made["model"].location.read_bytes("README.md").decode()


@pytest.mark.exhaustive
def test_any_model_on_any_file(store: Store, tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    base = build(PretrainedSpec(source=folder), {}, store=store, name="mine")
    changes = {
        "conversations": {"source": "file", "path": "medicalgpt/medical_sft_1K_format.jsonl"},
        "sft": SMALL | {"inputs": {"model": "pretrained/mine"}, "sequence_length": 2048},
    }
    made = ran("sft.py", changes, store, folder)
    assert made["sft"].record.parents["model"].fingerprint == base.fingerprint
    assert set(made["sft"].record.parents) == {"model", "conversations"}
    assert not made["conversations"].record.parents  # a file takes no corpus
    assert made["sft"].metrics["conversations"] > 0
