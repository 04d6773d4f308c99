"""Pruned models: what goes is what counts least, sizes are those of the rest, and what is zero stays zero in
training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.core.build import build
from cluster.core.errors import SpecError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import Full, Magnitude, Neurons, PruneSpec, QuantizeSpec, SftSpec, Wanda
from pipelines.stages.compression.prune_stage import prune
from pipelines.stages.compression.statistics import walk
from pipelines.stages.compression.weights import linear_layers, quantize, unturned
from pipelines.stages.training.sparsity import keep_zeros
from tests.alignment.tiny_chat import SCALING
from tests.compression.test_rounding import logits, tokens

pytestmark = pytest.mark.timeout(600)


def pruned(model: Path, method: Any, into: Path) -> tuple[Any, dict[str, Any]]:
    figures = prune(model, PruneSpec(method=method), into, tokens() if method.calibrated else (), lambda *_: None)
    return AutoModelForCausalLM.from_pretrained(into, dtype=torch.float32), figures


def matrices(network: Any) -> dict[str, Any]:
    unturned(network)
    return {name: layer.weight.detach().numpy() for name, layer in linear_layers(network).items()}


def test_the_smallest_weights_become_zero(model: Path, tmp_path: Path) -> None:
    network, figures = pruned(model, Magnitude(fraction=0.3), tmp_path / "p")
    assert figures["zeros"] == pytest.approx(0.3, abs=1e-3) and figures["parameters"] == figures["original_parameters"]
    before = matrices(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))
    for name, weight in matrices(network).items():
        zero = weight == 0
        assert zero.mean() == pytest.approx(0.3, abs=1e-3)
        assert np.abs(before[name][zero]).max() <= np.abs(before[name][~zero]).min()
        np.testing.assert_array_equal(weight[~zero], before[name][~zero])


def test_two_of_four_stay(model: Path, tmp_path: Path) -> None:
    network, _ = pruned(model, Magnitude(pattern=(2, 4)), tmp_path / "p")
    for weight in matrices(network).values():
        assert ((weight.reshape(-1, 4) != 0).sum(1) == 2).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0.05, 0.95))
def test_wanda_is_the_papers(seed: int, fraction: float) -> None:
    """Equation (1) of arXiv:2306.11695 over the inputs themselves; rows are compared within themselves."""
    from pipelines.stages.compression.statistics import Block, Statistics

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((50, 24), generator=generator) * torch.rand(24, generator=generator)
    layer = torch.nn.Linear(24, 8)
    layer.weight.data = torch.randn((8, 24), generator=generator)
    before = layer.weight.detach().clone().numpy()
    statistics = Statistics(x.T @ x / 50, x.abs().mean(0), x.abs().amax(0))
    Wanda(fraction=fraction).prune(Block(layer, "", {"layer": layer}, {"layer": statistics}), None)
    score = np.abs(before) * np.linalg.norm(x.numpy(), axis=0)
    gone = round(fraction * 24)
    for row, weight in enumerate(layer.weight.detach().numpy()):
        assert set(np.flatnonzero(weight == 0)) == set(np.argsort(score[row])[:gone])


def test_neurons_go_whole(model: Path, tmp_path: Path) -> None:
    """The smaller model computes what the large one does where those neurons are silent."""
    network, figures = pruned(model, Neurons(fraction=0.5), tmp_path / "p")
    assert figures["parameters"] < figures["original_parameters"]
    config = AutoConfig.from_pretrained(tmp_path / "p")
    width = config.intermediate_size if model.name == "llama" else config.n_inner
    assert width == (64 if model.name == "llama" else 128)
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    last = "mlp.down_proj" if model.name == "llama" else "mlp.c_proj"
    small, large = matrices(network), matrices(whole)
    layers = linear_layers(whole)
    for name in [name for name in large if name.endswith(last)]:
        stays = [any(np.array_equal(column, kept) for kept in small[name].T) for column in large[name].T]
        assert sum(stays) == width
        layers[name].weight.data[:, ~torch.tensor(stays)] = 0
    assert torch.allclose(logits(network), logits(whole), rtol=1e-3, atol=1e-4)


def test_the_neurons_that_go_count_least(model: Path, tmp_path: Path) -> None:
    network, _ = pruned(model, Neurons(fraction=0.5), tmp_path / "p")
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    unturned(whole)
    first = next(walk(whole, linear_layers(whole), tokens()))
    name = next(name for name in first.layers if name.endswith(("down_proj", "mlp.c_proj")))
    weight = first.layers[name].weight.detach().numpy()
    counts = first.statistics[name].magnitude.numpy() * np.linalg.norm(weight, axis=0)
    kept = matrices(network)[name]
    np.testing.assert_array_equal(kept, weight[:, np.sort(np.argsort(-counts)[: kept.shape[1]])])


def test_a_pruned_model_can_be_quantized(model: Path, tmp_path: Path) -> None:
    pruned(model, Neurons(fraction=0.5), tmp_path / "p")
    assert quantize(tmp_path / "p", QuantizeSpec(scheme="int4"), tmp_path / "q", lambda *_: None)


def test_families_of_unknown_neurons_are_refused() -> None:
    with pytest.raises(SpecError, match="which neurons bert has"):
        Neurons().check(AutoConfig.for_model("bert"))
    with pytest.raises(SpecError, match="no input `calibration`"):
        PruneSpec(method=Wanda()).check_inputs({"model": None})
    with pytest.raises(SpecError, match="4 of 4 is all"):
        Magnitude(pattern=(4, 4)).check(None)
    with pytest.raises(SpecError, match="muon moves zeros"):
        SftSpec(method=Full(keep_zeros=True), optimizer="muon").check()


def test_zeros_have_no_gradient(model: Path, tmp_path: Path) -> None:
    network, _ = pruned(model, Magnitude(fraction=0.6), tmp_path / "p")
    expected = sum(int((weight == 0).sum()) for weight in network.parameters() if weight.ndim == 2)
    assert keep_zeros(network) == expected > 0
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.1)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    for ids in tokens(3):
        network(ids[None], labels=ids[None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in network.named_parameters():
        if weight.ndim == 2:
            assert torch.equal(weight == 0, before[name] == 0), name
            assert not torch.equal(weight, before[name])


@pytest.mark.heavy
@pytest.mark.exhaustive
@pytest.mark.timeout(1500)
def test_recovery_through_the_stage(chat_inputs: dict[str, Artifact]) -> None:
    """On two workers under ZeRO: the loss comes back, the zeros stay."""
    store, conversations = chat_inputs["model"].store, chat_inputs["prompts"]
    inputs = {"model": chat_inputs["model"]}
    sparse = build(PruneSpec(method=Magnitude(fraction=0.6)), inputs, store=store, name="sparse")
    losses = {}
    for epochs in (0.02, 2.0):
        spec = SftSpec(method=Full(keep_zeros=True), epochs=epochs, warmup_steps=0, global_batch_size=16)
        given = {"model": sparse, "conversations": conversations}
        tuned = build(spec, given, store=store, name="recovered", scaling=SCALING)
        losses[epochs] = tuned.metrics["validation_loss"]
        for one, other in zip(*(_weights(artifact) for artifact in (sparse, tuned)), strict=True):
            assert torch.equal(one == 0, other == 0)
    assert losses[2.0] < losses[0.02]


def _weights(artifact: Artifact) -> list[torch.Tensor]:
    network = AutoModelForCausalLM.from_pretrained(artifact.local(), dtype=torch.float32)
    return [weight for weight in network.parameters() if weight.ndim == 2]
