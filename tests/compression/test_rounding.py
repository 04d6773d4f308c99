"""GPTQ, AWQ and SmoothQuant against their papers in plain numpy, and what models that they rounded say in
transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.core.errors import InputError, SpecError
from cluster.core.integers import needs_opening, open_plain
from cluster.core.storage.store import Store
from pipelines.specs import Awq, CorpusSpec, Gptq, Nearest, QuantizeSpec, SmoothQuant, TextSource
from pipelines.stages.compression.calibration import calibration_sequences
from pipelines.stages.compression.grid import best_scale, on_grid, widest_scale
from pipelines.stages.compression.statistics import Statistics, walk
from pipelines.stages.compression.weights import FUSED, check, linear_layers, quantize, unturned
from tests.alignment.tiny_chat import write_conversations, write_model
from tests.compression.conftest import SIZES
from tests.made import make

pytestmark = pytest.mark.timeout(600)

FOUR = QuantizationArgs(num_bits=4, strategy="group", group_size=32)
WITH_ZEROS = QuantizationArgs(num_bits=4, strategy="group", group_size=32, symmetric=False)
EIGHT = QuantizationArgs(num_bits=8, strategy="channel")
GRIDS = st.sampled_from([FOUR, WITH_ZEROS, EIGHT])


def inputs_of(seed: int, width: int = 64, places: int = 300) -> tuple[torch.Tensor, Statistics]:
    """Inputs that depend on one another and differ in size, as a layer's do."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((places, width), generator=generator) @ torch.randn((width, width), generator=generator)
    x *= torch.rand(width, generator=generator) * 3
    return x, Statistics(x.T @ x / places, x.abs().mean(0), x.abs().amax(0))


def gptq_by_its_equations(weight: Any, gram: Any, damping: float, round_column: Any, order: Any) -> Any:
    """Equations (2) and (3) of arXiv:2210.17323 as they stand, a column at a time: the inverse Hessian of the columns
    that are left, whole."""
    weight = weight.copy()
    hessian = 2 * gram.copy()
    hessian[np.diag_indices_from(hessian)] += damping * np.diag(hessian).mean()
    inverse = np.linalg.inv(hessian)
    rounded = np.empty_like(weight)
    for q in order:
        rounded[:, q] = round_column(weight[:, q], q)
        weight -= np.outer((weight[:, q] - rounded[:, q]) / inverse[q, q], inverse[q])
        inverse -= np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
    return rounded


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), grid=GRIDS, order=st.sampled_from(["importance", "position"]))
def test_gptq_is_the_papers(seed: int, grid: QuantizationArgs, order: Any) -> None:
    _, statistics = inputs_of(seed)
    statistics = Statistics(*(part.double() for part in vars(statistics).values()))
    weight = torch.randn((8, 64), generator=torch.Generator().manual_seed(seed + 1)).double()
    found = Gptq(order=order).round(weight, grid, statistics)
    scale, zero = (part.numpy() for part in best_scale(weight, grid, statistics.gram.diagonal()))
    width, (low, high) = 64 // scale.shape[1], (-8, 7) if grid.num_bits == 4 else (-128, 127)

    def round_column(column: Any, q: int) -> Any:
        s, z = scale[:, q // width], zero[:, q // width]
        return (np.clip(np.round(column / s + z), low, high) - z) * s

    columns = np.argsort(-statistics.gram.diagonal().numpy(), kind="stable") if order == "importance" else range(64)
    expected = gptq_by_its_equations(weight.numpy(), statistics.gram.numpy(), 0.01, round_column, columns)
    np.testing.assert_allclose(found.weight.numpy(), expected, atol=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), grid=GRIDS)
def test_gptq_loses_less_than_rounding_to_nearest(seed: int, grid: QuantizationArgs) -> None:
    x, statistics = inputs_of(seed)
    weight = torch.randn((32, 64), generator=torch.Generator().manual_seed(seed + 1))

    def lost(found: Any) -> float:
        assert torch.equal(on_grid(found.weight, found.scale, found.zero_point, grid), found.weight)
        return float(((found.weight - weight) @ x.T).square().sum())

    nearest = Nearest().round(weight, grid, statistics)
    assert lost(Gptq().round(weight, grid, statistics)) < lost(nearest)


def test_inputs_that_never_come_are_named() -> None:
    zero = Statistics(torch.zeros(32, 32), torch.zeros(32), torch.zeros(32))
    with pytest.raises(InputError, match="all zero"):
        Gptq().round(torch.ones(8, 32), FOUR, zero)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_awq_takes_the_power_that_loses_least(seed: int) -> None:
    """Against the loss of equation (4) taken over the inputs themselves, which the code knows by their squares only."""
    x, statistics = inputs_of(seed)
    layer = torch.nn.Linear(64, 16, bias=False)
    layer.weight.data = torch.randn((16, 64), generator=torch.Generator().manual_seed(seed + 1))
    layer.requires_grad_(False)
    weight, losses = layer.weight.detach().numpy(), []
    for step in range(20):
        s = np.maximum(statistics.magnitude.numpy(), 1e-4) ** (step / 20)
        s = s / np.sqrt(s.max() * s.min())
        widened = torch.from_numpy(weight * s)
        rounded = on_grid(widened, *widest_scale(widened, FOUR), FOUR).numpy()
        losses.append((np.square(rounded @ (x.numpy() / s).T - weight @ x.numpy().T).sum(), s))
    best = min(loss for loss, _ in losses)
    found = Awq().scales([layer], statistics, FOUR).numpy()
    chosen = min(losses, key=lambda pair: np.abs(pair[1] - found).max())
    np.testing.assert_allclose(found, chosen[1], rtol=1e-5)
    assert chosen[0] <= best * 1.0001


def test_smooth_quant_is_the_papers() -> None:
    _, statistics = inputs_of(3)
    layers = [torch.nn.Linear(64, 8), torch.nn.Linear(64, 24)]
    found = SmoothQuant(strength=0.25).scales(layers, statistics, EIGHT).detach().numpy()
    w = np.abs(np.vstack([layer.weight.detach().numpy() for layer in layers])).max(0)
    np.testing.assert_allclose(found, statistics.largest.numpy() ** 0.25 / w**0.75, rtol=1e-5)


WAYS = {
    "int8": QuantizeSpec(),
    "int8, smooth": QuantizeSpec(balancing=SmoothQuant()),
    "int8, embeddings": QuantizeSpec(embeddings="int8"),
    "int4": QuantizeSpec(scheme="int4"),
    "int4, gptq": QuantizeSpec(scheme="int4", rounding=Gptq(), zero_points=True),
    "int4, some int8": QuantizeSpec(scheme="int4", eight_bits=("mlp.down_proj", "mlp.c_proj"), embeddings="int8"),
    "int4, awq, embeddings": QuantizeSpec(scheme="int4", balancing=Awq(), embeddings="int8"),
}


def tokens(number: int = 8) -> list[torch.Tensor]:
    return list(torch.randint(0, 320, (number, 48), generator=torch.Generator().manual_seed(1)))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(torch.stack(tokens(4))).logits)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_what_is_stored_computes_nearly_the_same(way: str, model: Path, tmp_path: Path) -> None:
    """Of every scheme, for layers of both kinds; the bytes are of integers."""
    spec = WAYS[way]
    if spec.eight_bits:
        spec = msgspec.structs.replace(spec, eight_bits=(spec.eight_bits[model.name == "gpt2"],))
    check(model, spec)
    layers = quantize(model, spec, tmp_path / "q", lambda *_: None, tokens() if spec.calibrated else ())
    assert layers == (14 if model.name == "llama" else 8)
    original = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    by_us = open_plain(tmp_path / "q", dtype=torch.float32)
    before, after = logits(original), logits(by_us)
    assert needs_opening(tmp_path / "q") == (model.name == "gpt2")
    if model.name == "llama":  # by transformers alone, which rounds inputs of W8A8 as vLLM does
        by_transformers = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "q", dtype=torch.float32))
        rounds_inputs = spec.scheme == "int8" or spec.eight_bits
        assert (by_transformers - after).norm() < (0.1 if rounds_inputs else 1e-5) * after.norm()
    error = (after - before).norm() / before.norm()
    assert 0 < error < (0.1 if spec.scheme == "int8" else 0.6)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (model, tmp_path / "q")]
    assert sizes[1] < (0.45 if spec.scheme == "int8" else 0.35) * sizes[0]


def as_before(folder: Path) -> None:
    """Make of a model what was written until the embedding was stored in whole bytes: four of them to a number."""
    config = json.loads((folder / "config.json").read_text())
    for group in config["quantization_config"]["config_groups"].values():
        if "Embedding" in group["targets"]:
            group |= {"format": "pack-quantized", "targets": ["Embedding"]}
    config["quantization_config"]["ignore"].append("lm_head")
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight_scale"]
    whole = weights.pop("model.embed_tokens.weight")
    weights["model.embed_tokens.weight_packed"] = pack_to_int32(whole, 8)
    weights["model.embed_tokens.weight_shape"] = torch.tensor(whole.shape)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_packed_embedding_of_before_opens(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(SIZES["llama"]).save_pretrained(tmp_path / "llama")
    quantize(tmp_path / "llama", QuantizeSpec(scheme="int4", embeddings="int8"), tmp_path / "q", lambda *_: None)
    now = logits(open_plain(tmp_path / "q", dtype=torch.float32))
    assert not needs_opening(tmp_path / "q")
    as_before(tmp_path / "q")
    assert needs_opening(tmp_path / "q")
    assert torch.equal(logits(open_plain(tmp_path / "q", dtype=torch.float32)), now)


def test_layers_with_outliers_are_spared(tmp_path: Path) -> None:
    """Those that all inputs of a calibration show, by its own rule, and what vLLM makes one layer of together."""
    model = tmp_path / "llama"
    AutoModelForCausalLM.from_config(SIZES["llama"]).save_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    found = {}
    for block in walk(network, linear_layers(network), tokens()):
        found |= {name: block.statistics[name].outliers for name in block.layers}
    middle = sorted(found.values())[len(found) // 2]
    spec = QuantizeSpec(rounding=Gptq(), spare_above=middle)
    layers = quantize(model, spec, tmp_path / "q", lambda *_: None, tokens())
    ignored = set(AutoConfig.from_pretrained(tmp_path / "q").quantization_config["ignore"]) & set(found)
    assert 0 < len(ignored) == len(found) - layers < len(found)
    largest = max(found, key=found.__getitem__)
    assert largest in ignored
    for name in ignored:
        before, _, last = name.rpartition(".")
        for fused in FUSED:
            assert last not in fused or {f"{before}.{other}" for other in fused} <= ignored
    with pytest.raises(InputError, match="every layer has outliers"):
        quantize(model, msgspec.structs.replace(spec, spare_above=0.01), tmp_path / "r", lambda *_: None, tokens())
    with pytest.raises(SpecError, match="of a calibrated int8 alone"):
        QuantizeSpec(spare_above=3).check()


def test_transformers_does_not_take_gpt2s_integers_for_weights(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(SIZES["gpt2"]).save_pretrained(tmp_path / "gpt2")
    quantize(tmp_path / "gpt2", QuantizeSpec(), tmp_path / "q", lambda *_: None)
    assert AutoConfig.from_pretrained(tmp_path / "q").model_type == "gpt2"
    with pytest.raises(ValueError, match="Conv1D"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "q")


@pytest.mark.parametrize("balancing", [Awq(), SmoothQuant()])
def test_balancing_changes_nothing_that_is_computed(balancing: Any, model: Path) -> None:
    """And the figures of what comes in are those of the balanced model."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    unturned(network)
    layers = linear_layers(network)
    before = logits(network)
    told = []
    for block in walk(network, layers, tokens(), half=False):
        balancing.balance(block, network.config.model_type, dict.fromkeys(layers, FOUR))
        told.append(block)
    assert torch.allclose(logits(network), before, rtol=1e-3, atol=1e-3)
    for block, again in zip(told, walk(network, layers, tokens(), half=False), strict=True):
        for name, statistics in again.statistics.items():
            for mine, measured in zip(vars(block.statistics[name]).values(), vars(statistics).values(), strict=True):
                assert torch.allclose(mine, measured, rtol=1e-2, atol=1e-3 * float(measured.max())), name


def test_figures_are_those_of_the_inputs(model: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    unturned(network)
    layers = linear_layers(network)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _, given, name=name: seen[name].append(given[0].flatten(0, -2)))
        for name, layer in layers.items()
    ]
    for sequence in tokens():
        with torch.no_grad():
            network(sequence[None])
    for hook in hooks:
        hook.remove()
    for block in walk(network, layers, tokens(), half=False):
        for name, statistics in block.statistics.items():
            x = torch.cat(seen[name]).double().numpy()
            np.testing.assert_allclose(statistics.gram, x.T @ x / len(x), rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(statistics.magnitude, np.abs(x).mean(0), rtol=1e-4)
            np.testing.assert_allclose(statistics.largest, np.abs(x).max(0), rtol=1e-4)


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    write_conversations(tmp_path / "functions.jsonl", 30)
    write_model(tmp_path / "model", tmp_path / "functions.jsonl")
    return tmp_path / "model"


def corpus(store: Store, tmp_path: Path) -> Any:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    texts = [f"def function_{number}(x):\n    return x + {number}\n" * 3 for number in range(40)]
    parquet.write_table(arrow.table({"text": texts}), tmp_path / "part.parquet")
    files = {"train/part-00000.parquet": (tmp_path / "part.parquet").read_bytes()}
    return make(store, CorpusSpec(sources=(TextSource(path="/somewhere"),)), {}, files, "tiny")


def test_sequences_come_out_of_a_corpus_by_a_seed(chat_model: Path, store: Store, tmp_path: Path) -> None:
    texts = corpus(store, tmp_path)
    spec = QuantizeSpec(rounding=Gptq(), calibration_sequences=6, calibration_tokens=32)
    found = calibration_sequences(chat_model, texts, spec)
    assert [sequence.shape for sequence in found] == [(32,)] * 6
    again = calibration_sequences(chat_model, texts, spec)
    other = calibration_sequences(chat_model, texts, msgspec.structs.replace(spec, seed=1))
    assert all(map(torch.equal, found, again)) and not all(map(torch.equal, found, other))
    with pytest.raises(InputError, match="tokens to calibrate on, and 128 sequences of 512 are wanted"):
        calibration_sequences(chat_model, texts, QuantizeSpec(rounding=Gptq()))


def test_what_does_not_go_together_is_refused_before_any_work(model: Path) -> None:
    with pytest.raises(SpecError, match="no input `calibration`"):
        QuantizeSpec(rounding=Gptq()).check_inputs({"model": None})
    with pytest.raises(SpecError, match="rounds to nf4 by itself"):
        QuantizeSpec(scheme="nf4", rounding=Gptq()).check()
    with pytest.raises(SpecError, match="zero_points: int8 has none"):
        QuantizeSpec(zero_points=True).check()
    with pytest.raises(SpecError, match="no linear layer ends in 'nothing'"):
        check(model, QuantizeSpec(keep=("nothing",)))
    if model.name == "llama":
        with pytest.raises(SpecError, match=r"vLLM makes one layer of .*v_proj and .*q_proj"):
            check(model, QuantizeSpec(scheme="int4", eight_bits=("v_proj",)))


def test_what_is_kept_is_kept(model: Path, tmp_path: Path) -> None:
    end = "mlp.down_proj" if model.name == "llama" else "mlp.c_proj"
    layers = quantize(model, QuantizeSpec(keep=(end,)), tmp_path / "q", lambda *_: None)
    assert layers == (12 if model.name == "llama" else 6)
    ignored = json.loads((tmp_path / "q" / "config.json").read_text())["quantization_config"]["ignore"]
    assert sum(name.endswith(end) for name in ignored) == 2
