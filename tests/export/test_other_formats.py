"""Exports for other programs: a GGUF that transformers and llama.cpp read, an ONNX graph that onnxruntime runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GPT2Config

from cluster.core.build import build
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainedSpec, QuantizeSpec
from pipelines.stages.export.other_formats import plain_model, write_other
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.cli.command import ctl

pytestmark = pytest.mark.timeout(600)

TEXT = 'def add_12(x):\n    """Add 7."""\n    return x + 123  # 文字\n'
TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model of each family, with a tokenizer and a template of its own."""
    folder = tmp_path_factory.mktemp("made") / request.param
    write_conversations(folder.parent / "functions.jsonl", 30)
    write_model(folder, folder.parent / "functions.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    if request.param == "gpt2":
        torch.manual_seed(0)
        # 1,024 places: transformers reads no other number out of a GGUF of this family
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return build(PretrainedSpec(source=str(folder)), {}, store=store, name=request.param)


def exported(artifact: Artifact, folder: Path, format: Any, numbers: str = "") -> Path:
    folder.mkdir()
    write_other(artifact, folder, format, numbers)
    return folder


def opened(artifact: Artifact) -> Any:
    return AutoModelForCausalLM.from_pretrained(artifact.local(), dtype=torch.float32).eval()


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(ids).logits)


@pytest.mark.heavy
def test_transformers_reads_the_gguf_back(model: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = ("artifacts", "export", model.record.ref, str(folder), "--format", "gguf", "--store", model.store_url)
    told = ctl(*command)
    assert told.returncode == 0, told.stderr
    assert json.loads((folder / "trunkline.json").read_bytes())["fingerprint"] == model.fingerprint
    file = f"{model.name}.gguf"
    back = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    ids = torch.tensor([AutoTokenizer.from_pretrained(model.local())(TEXT)["input_ids"]])
    assert tokenizer(TEXT)["input_ids"] == ids[0].tolist()
    assert tokenizer.chat_template == TEMPLATE and tokenizer.eos_token == "<|endoftext|>"
    assert torch.equal(logits(back, ids), logits(opened(model), ids))


@pytest.mark.parametrize(("numbers", "share", "error"), [("q8_0", 0.35, 0.03), ("q4_1", 0.3, 0.3), ("f16", 0.6, 2e-3)])
def test_numbers_of_few_bits(model: Artifact, tmp_path: Path, numbers: str, share: float, error: float) -> None:
    folder = exported(model, tmp_path / "out", "gguf", numbers)
    back = AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"{model.name}.gguf", dtype=torch.float32)
    ids = torch.arange(40)[None]
    before, after = logits(opened(model), ids), logits(back, ids)
    assert (after - before).norm() < error * before.norm()
    if model.name == "llama":  # a GPT-2 of this size is its positions, which stay as they are
        whole = sum(weight.numel() * 4 for weight in opened(model).parameters())
        assert (folder / "llama.gguf").stat().st_size < share * whole + 20_000


def test_a_quantized_model_leaves_with_numbers_of_its_own(model: Artifact, store: Store, tmp_path: Path) -> None:
    from gguf import GGUFReader

    specs = {"Q8_0": QuantizeSpec(), "Q4_1": QuantizeSpec(scheme="int4", embeddings="int8")}
    for numbers, spec in specs.items():
        small = build(spec, {"model": model}, store=store, name=model.name)
        folder = exported(small, tmp_path / numbers, "gguf")
        kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(folder / f"{model.name}.gguf").tensors}
        assert kinds["blk.0.ffn_up.weight"] == kinds["blk.1.ffn_down.weight"] == numbers
        assert kinds["token_embd.weight"] == "Q8_0" and kinds["blk.0.attn_norm.weight"] == "F32"


@pytest.mark.parametrize("zero_points", [False, True])
def test_four_bits_leave_as_they_are(model: Artifact, store: Store, tmp_path: Path, zero_points: bool) -> None:
    """But for the least value of a group, which float16 rounds."""
    spec = QuantizeSpec(scheme="int4", zero_points=zero_points)
    small = build(spec, {"model": model}, store=store, name=model.name)
    folder = exported(small, tmp_path / "out", "gguf")
    back = AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"{model.name}.gguf", dtype=torch.float32)
    weights, expected = back.state_dict(), plain_model(small).state_dict()
    for name in [name for name in expected if name.endswith(("proj.weight", "c_attn.weight", "c_fc.weight"))]:
        assert (weights[name] - expected[name]).abs().max() < 1e-3 * expected[name].abs().max(), name


def test_what_llama_cpp_would_cut_otherwise_is_refused(store: Store, tmp_path: Path) -> None:
    write_conversations(tmp_path / "functions.jsonl", 30)
    write_model(tmp_path / "model", tmp_path / "functions.jsonl")
    definition = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    steps = [{"type": "WhitespaceSplit"}, definition["pre_tokenizer"]]
    definition["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(definition))
    other = build(PretrainedSpec(source=str(tmp_path / "model")), {}, store=store, name="other")
    command = ("artifacts", "export", other.record.ref, str(tmp_path / "out"), "--store", other.store_url)
    with pytest.raises(InputError, match="no rules that cut texts as this tokenizer does"):
        exported(other, tmp_path / "folder", "gguf")
    told = ctl(*command, "--numbers", "f16")
    assert told.returncode == 2 and "--format gguf" in told.stderr


def test_onnxruntime_gives_the_same_logits(model: Artifact, tmp_path: Path) -> None:
    """Within 1e-4 of the largest, for other batches and lengths than it was written with, and with padding."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    folder = exported(model, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    network = opened(model)
    assert AutoConfig.from_pretrained(folder).model_type == model.name
    assert AutoTokenizer.from_pretrained(folder)(TEXT) == AutoTokenizer.from_pretrained(model.local())(TEXT)
    for batch, length in ((1, 7), (3, 40)):
        ids = torch.randint(0, 300, (batch, length), generator=torch.Generator().manual_seed(batch))
        mask = torch.ones_like(ids)
        mask[1:, :4] = 0
        (found,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            expected = network(ids, attention_mask=mask).logits.numpy()
        seen = mask.numpy().astype(bool)
        assert np.abs(found - expected)[seen].max() < 1e-4 * np.abs(expected).max()


def llama_cpp(file: Path) -> Any:
    """llama.cpp's own server on a GGUF, within this process. Keys and values in float32, as transformers has them."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (requirements/export.txt)")
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = str(file), 512, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 2
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    return xllamacpp.Server(parameters)


QUESTIONS = ("What is the capital of France?", "Write 12 + 30 in words.", "Name three colours, please.")


@pytest.mark.heavy
def test_llama_cpp_answers_the_same_greedily(smollm2_model: Artifact, tmp_path: Path) -> None:
    """SmolLM2, whose numbers GGUF holds as they are: by its own tokenizer and template, token for token."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed (requirements/export.txt)")
    folder = exported(smollm2_model, tmp_path / "out", "gguf", "f32")
    server = llama_cpp(folder / f"{smollm2_model.name}.gguf")
    tokenizer, network = AutoTokenizer.from_pretrained(smollm2_model.local()), opened(smollm2_model)
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        told = server.handle_chat_completions({"messages": messages, "max_tokens": 24, "temperature": 0.0})
        drawn = network.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
        assert told["usage"]["prompt_tokens"] == len(ids)
        assert told["choices"][0]["message"]["content"] == tokenizer.decode(drawn, skip_special_tokens=True)
        assert "France" not in question or "Paris" in told["choices"][0]["message"]["content"]
