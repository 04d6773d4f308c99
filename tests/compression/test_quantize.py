"""Quantized models: served by vLLM with answers like the original's, smaller, the same bytes again, refused in time."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from cluster.core.adapters import open_model
from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import QuantizeSpec, ScalingSpec
from pipelines.stages.compression.grid import best_scale
from pipelines.stages.compression.quality import Answers, Questions, ask, read_questions
from pipelines.stages.compression.weights import arguments, check
from pipelines.stages.generation.engine import folder_of
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.cli.command import ctl
from tests.conftest import ROOT

SPEC = QuantizeSpec(scheme="int8", report_conversations=24, report_tokens=48)
INT4 = QuantizeSpec(scheme="int4", embeddings="int8", report_conversations=24, report_tokens=48)

Report = dict[str, Any]

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def inputs(chat_inputs: dict[str, Artifact]) -> dict[str, Artifact]:
    """A model that has learned to answer, and the conversations it learned from."""
    return {"model": chat_inputs["model"], "conversations": chat_inputs["prompts"]}


@pytest.fixture(scope="module")
def store(inputs: dict[str, Artifact]) -> Store:
    return inputs["model"].store


@pytest.fixture(scope="module")
def int8(inputs: dict[str, Artifact], store: Store) -> Artifact:
    return build(SPEC, inputs, store=store, name="tiny")


@pytest.fixture(scope="module")
def int4(inputs: dict[str, Artifact], store: Store) -> Artifact:
    return build(INT4, {"model": inputs["model"]}, store=store, name="tiny")


@pytest.fixture(scope="module")
def report(int8: Artifact) -> Report:
    return dict(json.loads(int8.location.read_bytes("report.json")))


@pytest.fixture(scope="module")
def questions(inputs: dict[str, Artifact]) -> Questions:
    return read_questions(inputs["model"].local(), inputs["conversations"], SPEC)


@pytest.fixture(scope="module")
def int4_answers(int4: Artifact, questions: Questions) -> Answers:
    return ask("int4", int4, "auto", questions, ScalingSpec())


def perplexity(model: Artifact, questions: Questions) -> float:
    """By transformers, in float32."""
    network = open_model(model, dtype=torch.float32)
    nats = []
    for encoded in questions.whole:
        tokens = torch.tensor([encoded.tokens])
        with torch.no_grad():
            logprobs = network(tokens).logits[0, :-1].log_softmax(-1)
        nats += logprobs.gather(1, tokens[0, 1:, None])[torch.tensor(encoded.learn[1:]), 0].tolist()
    return math.exp(-sum(nats) / len(nats))


def test_int8_answers_like_the_original(report: Report) -> None:
    assert report["conversations"] == 24 and report["left_out"] == 0
    assert report["quantized"]["perplexity"] < 1.03 * report["original"]["perplexity"]
    assert report["equal_tokens"] > 0.7
    assert 0 <= report["identical_completions"] <= report["equal_tokens"]
    assert all(report[name]["resident_bytes"] > 100e6 for name in ("original", "quantized"))


def test_vllm_says_what_transformers_says(
    int8: Artifact,
    inputs: dict[str, Artifact],
    report: Report,
    questions: Questions,
) -> None:
    """Of the quantized model too, whose activations vLLM rounds in integer kernels of its own."""
    assert report["original"]["perplexity"] == pytest.approx(perplexity(inputs["model"], questions), rel=1e-3)
    assert report["quantized"]["perplexity"] == pytest.approx(perplexity(int8, questions), rel=0.03)


def test_int4_is_served_too(
    int4: Artifact,
    int4_answers: Answers,
    report: Report,
    questions: Questions,
) -> None:
    assert all(0 < len(tokens) <= 48 for tokens in int4_answers.completions)
    assert len({tuple(tokens) for tokens in int4_answers.completions}) > 1
    assert int4_answers.perplexity < 1.5 * report["original"]["perplexity"]
    assert int4_answers.perplexity == pytest.approx(perplexity(int4, questions), rel=0.05)


def test_the_metrics_are_the_reports_and_say_where_there_is_none(
    int8: Artifact,
    int4: Artifact,
    report: Report,
) -> None:
    assert int8.metrics["perplexity"] == report["quantized"]["perplexity"]
    assert int8.metrics["original_perplexity"] == report["original"]["perplexity"]
    assert "no conversations" in int4.metrics["report"]
    assert "perplexity" not in int4.metrics and "report.json" not in int4.record.files


def test_sizes(int8: Artifact, int4: Artifact, report: Report) -> None:
    size = int8.record.files["model.safetensors"].size_bytes
    assert int8.metrics["size_bytes"] == report["quantized"]["size_bytes"] == size
    assert int4.metrics["size_bytes"] < size < 0.4 * int8.metrics["original_size_bytes"]


def test_the_same_bytes_again(int8: Artifact, int4: Artifact, inputs: dict[str, Artifact], tmp_path: Path) -> None:
    again = build(SPEC, {"model": inputs["model"]}, store=Store(tmp_path / "int8"), name="tiny")
    assert again.record.files == {n: e for n, e in int8.record.files.items() if n != "report.json"}
    again = build(INT4, {"model": inputs["model"]}, store=Store(tmp_path / "int4"), name="tiny")
    assert again.record.files == int4.record.files


def test_tokenizer_and_template_travel(int8: Artifact, inputs: dict[str, Artifact]) -> None:
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert int8.record.files[name] == inputs["model"].record.files[name]


def test_no_library_speaks_where_one_generates(int4: Artifact) -> None:
    told = ctl("generate", "def add(", "--model", int4.record.ref, "--max-tokens", "4", "--store", int4.store_url)
    assert (told.returncode, told.stderr) == (0, "") and told.stdout.strip()


def test_a_quantized_model_is_refused(int4: Artifact, store: Store) -> None:
    with pytest.raises(InputError, match="quantized already"):
        build(SPEC, {"model": int4}, store=store, name="twice")


def write_config(folder: Path, **sizes: int) -> Path:
    """A model's configuration without any weights: whatever reads them fails."""
    LlamaConfig(**({"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 2} | sizes)).save_pretrained(
        folder
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    return folder


def test_groups_that_do_not_divide_are_refused_before_any_work(tmp_path: Path) -> None:
    folder = write_config(tmp_path)
    with pytest.raises(SpecError, match=r"128 does not divide the 352 inputs of model\.layers\.0\.mlp\.down_proj"):
        check(folder, QuantizeSpec(scheme="int4", group_size=128))
    check(folder, QuantizeSpec(scheme="int4", group_size=32))
    check(folder, QuantizeSpec(scheme="int8", group_size=128))


def test_outputs_that_the_kernel_does_not_take_are_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path, hidden_size=96, num_attention_heads=2, num_key_value_heads=1, head_dim=48)
    with pytest.raises(SpecError, match=r"multiples of 32, and model\.layers\.0\.self_attn\.k_proj has 48 outputs"):
        check(folder, QuantizeSpec(scheme="int4"))
    check(folder, QuantizeSpec(scheme="int8"))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), outlier=st.floats(1, 30), scheme=st.sampled_from(["int8", "int4"]))
def test_the_scale_loses_least(seed: int, outlier: float, scheme: str) -> None:
    """Never more than the scale of the widest value does, and it is a bfloat16 number, as it will be stored."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn((8, 64), generator=generator)
    weight[3, 5] *= outlier
    weight[4] = 0
    how = arguments(scheme, QuantizeSpec())["weights"]
    scale, _ = best_scale(weight, how)
    assert scale.shape == (8, 2 if scheme == "int4" else 1)
    assert torch.equal(scale, scale.bfloat16().float()) and bool((scale > 0).all())

    def lost(scale: torch.Tensor) -> float:
        rounded = fake_quantize(weight, scale, torch.zeros_like(scale), how)
        return float((rounded - weight).abs().pow(2.4).sum())

    widest = weight.unflatten(-1, (scale.shape[1], -1)).abs().amax(-1) / (2**how.num_bits - 1) * 2
    assert lost(scale) <= lost(widest.bfloat16().float().clamp(min=1e-7)) * (1 + 1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_the_copy_of_a_model_in_an_object_store_goes(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    place = Location("memory://drafts/tiny")
    place.write_bytes("config.json", b"{}")
    with pytest.raises(MemoryError) if fails else nullcontext(), folder_of(place) as folder:
        assert (folder / "config.json").read_bytes() == b"{}"
        assert folder.parent == tmp_path
        if fails:
            raise MemoryError
    assert not list(tmp_path.iterdir())


def test_a_model_on_a_local_disk_is_not_copied(int4: Artifact) -> None:
    for model in (int4, int4.location):
        with folder_of(model) as folder:
            assert folder == int4.local()


ENGINE = """
import os, signal, sys
from cluster.core.storage.location import Location
from pipelines.stages.generation.engine import INITIAL, EngineOptions, GenerationEngine

engine = GenerationEngine(Location(sys.argv[1]), EngineOptions(max_model_len=64, dtype="bfloat16"))
found = engine.generate(INITIAL, [[5, 6, 7]], max_tokens=3, eos_token_id=None)
print(len(found[0].tokens), flush=True)
os.kill(os.getpid(), signal.SIGKILL)  # as Ray ends an engine
"""


def test_an_engine_on_an_object_store_leaves_no_copy_of_the_model(
    s3_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_conversations(tmp_path / "functions.jsonl", 20)
    write_model(tmp_path / "model", tmp_path / "functions.jsonl")
    boto3.client("s3").create_bucket(Bucket="quantized")
    place = Location("s3://quantized/draft")
    place.put(tmp_path / "model")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, place.url], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (-signal.SIGKILL, ["3"]), done.stderr[-3000:]
    assert not list((tmp_path / "temporary").glob("trunkline-*"))
