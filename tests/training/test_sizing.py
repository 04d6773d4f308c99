"""Sizing: parameters are those of the real model, activations what the real pass saves, and advice follows memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.control.planning.hardware import Hardware, named
from cluster.control.planning.plan import make_plan
from cluster.control.planning.prediction import Layout, Memory, Prediction, find_hardware, predict
from cluster.control.screen.view import View
from cluster.core.errors import SpecError, UsageError
from cluster.core.graph import Step
from cluster.core.storage.store import Store
from cluster.pipeline import pipeline, run
from pipelines.specs import (
    CorpusSpec,
    Dpo,
    DpoSpec,
    Kto,
    PretrainedSpec,
    PretrainSpec,
    ScalingSpec,
    SftSpec,
    TokenizerSpec,
    TokensSpec,
)
from pipelines.stages.training.models.models import build_model, configuration, count_parameters
from pipelines.stages.training.models.sizes import SIZES
from pipelines.stages.training.objectives.causal import CausalLM
from pipelines.stages.training.sizing.advice import recommend
from pipelines.stages.training.sizing.footprint import FP32, Footprint, Peak, trace
from pipelines.stages.training.sizing.memory import place
from tests.cli.command import ctl
from tests.training.tiny import make_tokens, pretrain, saved_bytes

pytestmark = pytest.mark.heavy

GIB = 2**30
FAMILIES = ("gpt2-1m", "llama-1m", "pythia-1m", "bloom-1m", "stablelm-1.6b", "glm-9b")


def config(model: str, length: int = 32) -> Any:
    vocab = SIZES[model].vocab_size if not model.endswith("-1m") else 512
    return configuration(model, {}, vocab_size=vocab, sequence_length=length, eos_token_id=0)


@pytest.mark.parametrize("model", FAMILIES)
def test_parameters_are_those_of_the_model(model: str) -> None:
    found = trace(config(model), PretrainSpec(), 32).parameters
    assert found == SIZES[model].parameters or model.endswith("-1m")
    if model.endswith("-1m"):
        assert found == count_parameters(build_model(config(model), seed=0))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", FAMILIES[:4])
def test_activations_are_what_a_real_pass_saves(model: str, precision: str) -> None:
    """Of three sequences with a boundary in each; the rest is the logits, the mask and the tokens."""
    length, number = 32, 3
    built = build_model(config(model), seed=0)
    objective = CausalLM(built, 0, precision)
    tokens = torch.ones(number, length + 1, dtype=torch.int64)
    tokens[:, 9] = 0
    beside = number * length * (512 * (FP32 if precision == "fp32" else 2) + length + 8)
    real = saved_bytes(objective, tokens) + beside
    spec = PretrainSpec(precision=precision)  # type: ignore[arg-type]
    assert trace(config(model), spec, length).activations_bytes(number) == pytest.approx(real, rel=0.02)


def test_tracing_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    trace(config("gpt2-1m"), PretrainSpec(), 32)
    assert torch.equal(torch.random.get_rng_state(), before)


def footprint(parameters: int, state_bytes: int, fixed: int, sequence: int, **changes: Any) -> Footprint:
    """Of a model whose activations are half of them in its blocks."""
    fields: dict[str, Any] = {
        "trained_parameters": parameters,
        "gathered_parameters": 0,
        "largest_parameter": parameters // 10,
        "frozen_bytes": 0,
        "peaks": (Peak(fixed, sequence),),
        "checkpointed": (Peak(fixed // 2, sequence // 2),),
    }
    return Footprint(parameters=parameters, state_bytes=state_bytes, **(fields | changes))


MODEL = footprint(1000, 8000, 10, 100)


def memory_of(model: Footprint, layout: Layout, workers: int, *, on_cpu: bool, accumulates: bool) -> Memory:
    return place(model, layout, workers, on_cpu=on_cpu, accumulates=accumulates).memory


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(0, 4000, 4000, 8000), (1, 4000, 1000, 3000), (2, 4000, 1000, 3000), (3, 1000 + 4000, 1000, 3000)],
)
def test_model_states_on_four_workers(stage: int, weights: int, gradients: int, optimizer: int) -> None:
    """AdamW has 8 bytes a parameter, and from stage 1 on an own copy of the weights it updates: 12, over 4 workers."""
    found = memory_of(MODEL, Layout(stage, 2), 4, on_cpu=True, accumulates=False)
    assert (found.weights, found.gradients, found.optimizer) == (weights, gradients, optimizer)
    assert found.activations == 210
    assert found.checkpoint == (4000 + 8000) / 4  # each writes its part, at every stage
    assert found.total == weights + gradients + optimizer + found.buffers + 210 + 3000 + found.runtime
    on_gpu = place(MODEL, Layout(stage, 2), 4, on_cpu=False, accumulates=False)
    assert on_gpu.memory.checkpoint == 0
    assert on_gpu.host_memory and on_gpu.host_memory.checkpoint == 3000


def test_muon_keeps_one_moment() -> None:
    model = footprint(1000, 5600, 0, 0, gathered_parameters=600)
    assert memory_of(model, Layout(0, 1), 1, on_cpu=True, accumulates=False).optimizer == 400 * 8 + 600 * 4


footprints = st.builds(
    footprint,
    parameters=st.integers(10**6, 10**11),
    state_bytes=st.integers(10**6, 10**12),
    fixed=st.integers(0, 10**9),
    sequence=st.integers(10**6, 10**11),
)


def cost(layout: Layout) -> tuple[Any, ...]:
    """What a layout costs, from the dearest on."""
    offloads = layout.offload_parameters == "cpu", layout.offload_optimizer == "cpu"
    return *offloads, layout.activation_checkpointing, layout.zero_stage


@given(
    model=footprints,
    share=st.integers(1, 64),
    workers=st.integers(1, 64),
    memory=st.integers(GIB, 200 * GIB),
    host=st.integers(0, 1000 * GIB),
    more=st.integers(0, 200 * GIB),
)
def test_advice_fits_divides_and_never_costs_more_for_more_memory(
    model: Footprint, share: int, workers: int, memory: int, host: int, more: int
) -> None:
    batch = share * workers
    hardware = Hardware("some GPU", memory, host_memory_bytes=host)
    found = recommend(model, batch, workers, workers, hardware)
    richer = recommend(model, batch, workers, workers, dataclasses.replace(hardware, memory_bytes=memory + more))
    if found is None:
        return
    assert share % found.micro_batch_size == 0
    accumulates = found.micro_batch_size < share
    placed = place(model, found, workers, on_cpu=False, accumulates=accumulates)
    assert placed.memory.total <= memory
    assert placed.host_memory
    assert not found.offloads or placed.host_memory.total <= host
    assert richer is not None
    assert cost(richer) <= cost(found)
    assert cost(richer) < cost(found) or richer.micro_batch_size >= found.micro_batch_size


def whole(store: Store, scaling: dict[str, Any], **fields: Any):  # type: ignore[no-untyped-def]
    @pipeline
    def whole(step):  # type: ignore[no-untyped-def]
        corpus = step(CorpusSpec())
        tokenizer = step(TokenizerSpec(vocab_size=32000), corpus=corpus)
        tokens = step(TokensSpec(sequence_length=64), corpus=corpus, tokenizer=tokenizer)
        return step(PretrainSpec(**{"model": "llama-1m", "total_tokens": 64 * 32 * 10, **fields}), tokens=tokens)

    return whole.graph(store, {"scaling": scaling})


def of(store: Store, hardware: Hardware, scaling: dict[str, Any], **fields: Any) -> Prediction:
    graph = whole(store, scaling, **fields)
    found = predict(graph.step("pretrain"), store, graph.scaling, hardware)
    assert found is not None
    return found


def test_a_plan_sizes_what_nothing_is_built_for(store: Store) -> None:
    found = of(store, named("h100"), {"num_workers": 4})
    config = configuration("llama-1m", {}, vocab_size=32000, sequence_length=64, eos_token_id=0)
    assert found.parameters == count_parameters(build_model(config, seed=0))
    assert found.tokens == 64 * 32 * 10
    assert found.layout == Layout(1, 8)
    # 6 N + 12 layers hidden length (PaLM), a third of the data sheet's 67 TFLOP/s in fp32, on 4 GPUs
    flops = 6 * found.parameters + 12 * config.num_hidden_layers * config.hidden_size * 64
    assert found.tokens_per_second() == pytest.approx(4 * 0.33 * 67e12 / flops)
    assert of(store, named("h100"), {"num_workers": 4}, precision="bf16").tokens_per_second() == pytest.approx(
        4 * 0.33 * 989.5e12 / flops
    )


def test_built_tokens_say_what_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    step = Step("pretrain", pretrain(3), {"tokens": make_tokens(store)}, "")
    found = predict(step, store, ScalingSpec(), named("a10"))
    assert found is not None
    assert found.tokens == 3 * 8 * 32
    sft = Step("sft", SftSpec(sequence_length=16, global_batch_size=8), {"model": step}, "")
    tuned = predict(sft, store, ScalingSpec(), named("a10"))
    assert tuned is not None
    assert (tuned.parameters, tuned.tokens) == (found.parameters, None)
    assert tuned.memory.activations < found.memory.activations
    pairs, single = (
        predict(
            Step("dpo", DpoSpec(sequence_length=16, global_batch_size=8, loss=loss), {"model": sft}, ""),
            store,
            ScalingSpec(),
            named("a10"),
        )
        for loss in (Dpo(), Kto())
    )
    assert pairs is not None and single is not None
    assert single.memory.activations == tuned.memory.activations
    assert pairs.memory.activations == pytest.approx(2 * single.memory.activations, rel=0.01)


def test_what_is_not_known_yet_is_said(store: Store) -> None:
    @pipeline
    def further(step):  # type: ignore[no-untyped-def]
        base = step(PretrainedSpec())
        tokens = step(TokensSpec(), corpus=step(CorpusSpec()), tokenizer=base)
        return step(PretrainSpec(), tokens=tokens, model=base)

    planned = make_plan(further.graph(store), store, named("h100"))[-1]
    assert planned.prediction is None
    assert planned.reasons[-1] == "not sized: its vocabulary is known once the tokens of pretrained are built"


LARGE = {"model": "llama-70b", "precision": "bf16"}


def test_what_cannot_fit_is_refused_before_anything_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware("24 GiB", 24 * GIB, threads=1)
    graph = whole(store, {"num_workers": 2, "zero_stage": 1}, **LARGE)
    found = predict(graph.step("pretrain"), store, graph.scaling, hardware)
    assert found is not None
    with pytest.raises(SpecError, match=r"68,9\d\d,\d\d\d,\d\d\d parameters take 689\.\d GB .* ZeRO 1 on 2 workers"):
        found.require_fit("pretrain")
    assert found.recommended is None
    monkeypatch.setattr("cluster.control.planning.hardware.memory_bytes", lambda: 48 * GIB)
    with pytest.raises(SpecError, match="Take more workers"):
        run(graph, store, View())
    assert not store.list()


def test_a_refusal_names_the_stage_that_fits(store: Store) -> None:
    scaling = {"num_workers": 64, "zero_stage": 0, "micro_batch_size": 1}
    found = of(store, named("a100-80gb"), scaling, model="llama-70b", global_batch_size=64)
    with pytest.raises(SpecError, match=r"Set scaling.zero_stage=3"):
        found.require_fit("pretrain")


def test_hardware_by_name_or_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="Did you mean 'h100'"):
        find_hardware("h10", ScalingSpec())
    here = find_hardware("", ScalingSpec(num_workers=2))
    assert here is not None
    assert here.memory_bytes == pytest.approx(find_hardware("", ScalingSpec(num_workers=1)).memory_bytes / 2, abs=1)  # type: ignore[union-attr]
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert find_hardware("", ScalingSpec()) is None


def test_ctl_plan_tells_and_refuses(tmp_path: Path) -> None:
    command = ("plan", "pipelines/pretrain.py", "--store", tmp_path, "--hardware", "a100-80gb")
    done = ctl(*command, "--json", "--set", "pretrain.precision=bf16")
    found = {item["step"]: item["prediction"] for item in json.loads(done.stdout)}["pretrain"]
    assert found["hardware"] == "a100-80gb"
    assert found["duration_seconds"] == pytest.approx(found["tokens"] / found["tokens_per_second"], rel=1e-3)
    memory = found["memory_per_worker"]
    assert memory["total_bytes"] == sum(value for name, value in memory.items() if name != "total_bytes")
    refused = ctl(*command, "--set", "pretrain.model=llama-70b")
    assert refused.returncode == 3
    assert "no ZeRO stage fits" in refused.stdout
    assert refused.stderr.startswith("ctl: pretrain: weights and optimizer of 68,")
