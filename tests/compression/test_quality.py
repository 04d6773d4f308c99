"""The table of what compression costs, and models that only Trunkline's vLLM opens: tied embeddings in integers,
GPT-2."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from cluster.core.adapters import open_model
from cluster.core.build import build
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import Awq, BenchmarkSpec, Gptq, PretrainedSpec, QualitySpec, QuantizeSpec, ScalingSpec
from pipelines.stages.compression.paired import Change, perplexity
from pipelines.stages.compression.plain_engine import PlainEngine
from pipelines.stages.compression.quality import Answers, Questions, ask, read_questions
from pipelines.stages.compression.quality_stage import row, table
from tests.cli.command import ctl
from tests.made import make

pytestmark = pytest.mark.timeout(1500)

SPEC = QualitySpec(report_conversations=12, report_tokens=16, tuning_tokens=16)
CALIBRATION: dict[str, Any] = {"calibration_sequences": 8, "calibration_tokens": 64}


@pytest.fixture(scope="module")
def inputs(chat_inputs: dict[str, Artifact]) -> dict[str, Artifact]:
    return {"model": chat_inputs["model"], "conversations": chat_inputs["prompts"]}


@pytest.fixture(scope="module")
def questions(inputs: dict[str, Artifact]) -> Questions:
    return read_questions(inputs["model"].local(), inputs["conversations"], SPEC)


def quantized(inputs: dict[str, Artifact], spec: QuantizeSpec, name: str, model: Artifact | None = None) -> Artifact:
    given = {"model": model or inputs["model"]}
    if spec.calibrated:
        given["calibration"] = inputs["conversations"]
    return build(spec, given, store=inputs["model"].store, name=name)


@torch.no_grad()
def plain_perplexity(model: Artifact, questions: Questions) -> float:
    """By transformers, the weights as the numbers that they stand for."""
    network = open_model(model, dtype=torch.float32)
    nats = []
    for encoded in questions.whole:
        tokens = torch.tensor([encoded.tokens])
        logprobs = network(tokens).logits[0, :-1].log_softmax(-1)
        nats += logprobs.gather(1, tokens[0, 1:, None])[torch.tensor(encoded.learn[1:]), 0].tolist()
    return math.exp(-sum(nats) / len(nats))


@pytest.mark.exhaustive
def test_one_table_of_all(inputs: dict[str, Artifact], questions: Questions) -> None:
    """An INT8 whose tied embedding is in integers through vLLM, an NF4 through transformers, as the artifact says."""
    store = inputs["model"].store
    int8 = quantized(inputs, QuantizeSpec(embeddings="int8"), "int8")
    nf4 = quantized(inputs, QuantizeSpec(scheme="nf4"), "nf4")
    given = {"original": inputs["model"], "conversations": inputs["conversations"], "int8": int8, "nf4": nf4}
    made = build(SPEC, given, store=store, name="table")
    rows = json.loads(made.location.read_bytes("quality.json"))["models"]
    assert list(rows) == ["float32", "bfloat16", "int8", "nf4"]
    assert [row["engine"] for row in rows.values()] == ["vllm", "vllm", "vllm", "transformers"]
    assert rows["float32"]["equal_tokens"] == 1 and rows["float32"]["perplexity_change"] == 0
    assert rows["int8"]["size"] < 0.65 and rows["nf4"]["size"] < rows["bfloat16"]["size"] == 1
    assert rows["float32"]["perplexity"] == pytest.approx(plain_perplexity(inputs["model"], questions), rel=1e-3)
    for name, model in (("int8", int8), ("nf4", nf4)):
        assert rows[name]["perplexity"] == pytest.approx(plain_perplexity(model, questions), rel=0.05)
        assert rows[name]["artifact"] == model.record.ref
    assert [row.get("tuning_method") for row in rows.values()] == [None, "lora", "int8", "nf4"]
    assert all(row["resident_bytes"] > 100e6 and row["tokens_per_second"] > 0 for row in rows.values())
    table = made.location.read_bytes("quality.md").decode().splitlines()
    assert len(table) == 6 and table[4].startswith("| int8 |") and " 100% " in table[3]
    shown = ctl("artifacts", "show", made.record.ref, "--store", store.root.url)
    assert "perplexity_change" in shown.stdout and int8.fingerprint[:12] in shown.stdout


def test_a_benchmark_of_another_model_is_refused(inputs: dict[str, Artifact]) -> None:
    other = make(inputs["model"].store, PretrainedSpec(source="hub:some/other"), {}, {"config.json": b"{}"}, "other")
    benchmark = make(inputs["model"].store, BenchmarkSpec(), {"model": other}, {"results.json": b"{}"}, "arc")
    given = {"original": inputs["model"], "conversations": inputs["conversations"], "int8": inputs["model"]}
    with pytest.raises(InputError, match="a benchmark of pretrained/other"):
        build(SPEC, given | {"arc": benchmark}, store=inputs["model"].store, name="table")


def test_rows_are_compared_with_the_original() -> None:
    ten, more = math.log(10), math.log(10.5)
    one = Answers([[ten, ten], [ten]], [[1, 2, 3], [4]], 2**30, 5.0)
    other = Answers([[more, more], [more]], [[1, 9, 3], [4]], 2**29, 50.0)
    found = row(other, one)
    assert (found["perplexity_change"], found["equal_tokens"], found["identical_completions"]) == (0.05, 0.75, 0.5)
    assert found["perplexity_change_interval"] == [0.05, 0.05]  # as sure as can be: each token lost the same
    rows = {
        "bfloat16": row(one, one) | {"size_bytes": 2_000_000, "size": 1.0, "tuning_bytes": 2**30},
        "int8": found | {"size_bytes": 1_000_000, "size": 0.5, "tasks": {"arc_easy/acc": 0.25}},
    }
    assert table(rows).splitlines()[2:] == [
        "| bfloat16 | 2 | 100% | 1,024 | 1,024 | 10.000 | +0.00% | +0.00% to +0.00% | 100% | 5.0 |  |",
        "| int8 | 1 | 50% | 512 |  | 10.500 | +5.00% | +5.00% to +5.00% | 75% | 50.0 | 0.250 |",
    ]


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), more=st.floats(-0.1, 0.1))
def test_the_interval_holds_what_is_true(seed: int, more: float) -> None:
    """Of 200 draws of texts of unequal lengths, whose tokens share a deviation, about 95 % of the intervals."""
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(200):
        lengths = rng.integers(1, 40, 60)
        before = [rng.exponential(2, length).tolist() for length in lengths]
        shared = rng.normal(more, 0.2, 60)
        after = [[nat + own for nat in text] for text, own in zip(before, shared, strict=True)]
        change = Change.of(before, after)
        assert change.interval is not None
        assert change.share == pytest.approx(perplexity(after) / perplexity(before) - 1)
        held += change.interval[0] <= math.expm1(more) <= change.interval[1]
    assert 170 <= held <= 199
    assert Change.of([[1.0, 2.0]], [[1.5, 2.5]]).interval is None


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_gpt2_is_served(scheme: Any, inputs: dict[str, Artifact], questions: Questions, tmp_path: Path) -> None:
    """Its layers lie on their side, and vLLM turns some of them: log-probabilities as transformers has them."""
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=2, n_positions=256,
                        initializer_range=0.2, bos_token_id=0, eos_token_id=0)  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    store = inputs["model"].store
    model = build(PretrainedSpec(source=str(tmp_path / "gpt2")), {}, store=store, name="gpt2")
    small = quantized(inputs, QuantizeSpec(scheme=scheme, rounding=Gptq(), **CALIBRATION), f"gpt2-{scheme}", model)
    answers = ask("gpt2", small, "bfloat16", questions, ScalingSpec())
    assert answers.perplexity == pytest.approx(plain_perplexity(small, questions), rel=0.1)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "spec",
    [
        QuantizeSpec(scheme="int4", embeddings="int8", zero_points=True, rounding=Gptq(), **CALIBRATION),
        QuantizeSpec(scheme="int4", balancing=Awq(), **CALIBRATION),
    ],
    ids=["gptq", "awq"],
)
def test_int4_is_served(spec: QuantizeSpec, inputs: dict[str, Artifact], questions: Questions) -> None:
    small = quantized(inputs, spec, "int4")
    answers = ask("int4", small, "bfloat16", questions, ScalingSpec())
    assert answers.perplexity == pytest.approx(plain_perplexity(small, questions), rel=0.05)


@pytest.mark.exhaustive
def test_the_plain_engine_says_what_vllm_says(inputs: dict[str, Artifact], questions: Questions) -> None:
    plain, engine = (
        ask("model", inputs["model"], "float32", questions, ScalingSpec(), *given) for given in ((PlainEngine,), ())
    )
    assert plain.perplexity == pytest.approx(engine.perplexity, rel=1e-4)
    assert plain.completions == engine.completions
