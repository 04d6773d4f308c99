"""What methods write: merged models, adapters over a base, alone and several of them; and what refuses an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, DynamicCache

from cluster.core.adapters import adapter_place, base_of, context_of, open_model
from cluster.core.build import build
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import (
    AdapterSpec,
    ExportSpec,
    Lora,
    MergedSpec,
    PretrainedSpec,
    QuantizeSpec,
    SftSpec,
    Spec,
)
from pipelines.stages.generation import fleet, plain
from pipelines.stages.generation.engine import EngineOptions
from pipelines.stages.training.models.models import require_trainable
from pipelines.stages.tuning.methods.adapter import Adapter
from pipelines.stages.tuning.methods.method import Stored
from pipelines.stages.tuning.recipe import load_with_rows
from serving.in_process import InProcess
from serving.talk import Sampling
from tests.tuning.made_adapters import Inputs, by_method, greedy, logits, tuned
from tests.tuning.tiny_sft import METHODS, make_inputs, sft, write_sources

TOKENS = torch.arange(5, 45)[None]
SOFT = ("prefix", "projected", "prompt")
LOW_RANK = ("lora", "dora", "pissa", "whole", "qlora", "int8")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def inputs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return make_inputs(store, write_sources(tmp_path_factory.mktemp("sources")))


@pytest.fixture(scope="module")
def other(store: Store, inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model of the same shapes and tokenizer, with other weights."""
    folder = tmp_path_factory.mktemp("other")
    for name in inputs["model"].record.files:
        (folder / name).write_bytes((inputs["model"].local() / name).read_bytes())
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.model.norm.weight.data *= 1.01
    model.save_pretrained(folder)
    return build(PretrainedSpec(source=str(folder)), {}, store=store, name="other")


def loaded(artifact: Artifact) -> Any:
    return AutoModelForCausalLM.from_pretrained(artifact.local(), dtype=torch.float32)


@pytest.mark.heavy
@pytest.mark.parametrize("method", [name for name in METHODS if name not in SOFT])
def test_the_merged_model_is_what_was_trained(inputs: Inputs, store: Store, method: str) -> None:
    """And equals base and adapter, greedily too; of a packed base, the unpacked one and the adapter."""
    artifact, trained = by_method(inputs, store, method)
    assert adapter_place(artifact) is None and open_model(artifact).config.vocab_size == len(trained_rows(trained))
    merged = loaded(artifact)
    if method not in ("qlora", "int8"):
        torch.testing.assert_close(logits(merged, TOKENS), logits(trained, TOKENS), rtol=1e-4, atol=1e-4)
        assert greedy(merged, TOKENS) == greedy(trained, TOKENS)
    if method in LOW_RANK:
        base = loaded(inputs["model"])
        base.resize_token_embeddings(merged.config.vocab_size)
        apart = PeftModel.from_pretrained(base, artifact.local() / "adapter").eval()
        torch.testing.assert_close(logits(merged, TOKENS), logits(apart, TOKENS), rtol=1e-4, atol=1e-4)
        assert greedy(merged, TOKENS) == greedy(apart, TOKENS)
        config = json.loads((artifact.local() / "adapter" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == inputs["model"].record.ref


@pytest.mark.parametrize("method", ["lora", "dora", "rslora", "qlora", "int8"])
def test_a_model_is_merged_tensor_by_tensor_to_the_same_bytes(inputs: Inputs, tmp_path: Path, method: str) -> None:
    """As with all of it in memory, the way that is left where weights have other names in their file."""
    chosen = {"rslora": Lora(rank=4, rslora=True)}.get(method) or METHODS[method]
    folder = inputs["model"].local()
    spec = SftSpec(method=chosen)
    extra = {"vocab_size": 300, "eos_token_id": 7}

    def load(packed: bool = False) -> Any:
        return load_with_rows(folder, spec, extra, packed)

    base = load(packed=True)
    model = chosen.apply(base, 0)
    torch.manual_seed(1)
    weights = {n: torch.randn_like(p) for n, p in model.named_parameters() if p.requires_grad}
    for way, write in (("whole", Adapter.write), ("streamed", type(chosen).write)):
        (tmp_path / way).mkdir()
        opened: list[Any] = []
        stored = Stored(folder, lambda opened=opened: opened.append(load()) or opened[-1])
        write(chosen, base, stored, weights, tmp_path / way, "pretrained/tiny", 0)
        assert len(opened) == (way == "whole")
    whole, streamed = (
        {str(p.relative_to(tmp_path / way)): p.read_bytes() for p in (tmp_path / way).rglob("*") if p.is_file()}
        for way in ("whole", "streamed")
    )
    assert streamed == whole and {"config.json", "generation_config.json", "model.safetensors"} < whole.keys()


def trained_rows(model: Any) -> torch.Tensor:
    return model.get_input_embeddings().weight


def test_freezing_leaves_the_other_layers_as_they_are(inputs: Inputs, store: Store) -> None:
    artifact, _ = by_method(inputs, store, "freeze")
    before, after = (dict(loaded(one).named_parameters()) for one in (inputs["model"], artifact))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    # The last of two layers, and the head, which is the embedding, too.
    assert changed == {name for name in before if ".layers.1." in name or "embed" in name}


@pytest.mark.parametrize("method", SOFT)
def test_what_cannot_be_merged_is_opened_over_its_base(inputs: Inputs, store: Store, method: str) -> None:
    artifact, trained = by_method(inputs, store, method)
    assert not [name for name in artifact.record.files if "/" not in name and name.endswith(".safetensors")]
    base = base_of(artifact)
    assert base and base.fingerprint == inputs["model"].fingerprint
    opened = open_model(artifact, dtype=torch.float32).eval()
    found = logits(opened, TOKENS)
    assert found.shape == (1, TOKENS.size(1), 300)  # nothing is told of virtual tokens
    torch.testing.assert_close(found, logits(trained, TOKENS)[:, -TOKENS.size(1) :], rtol=1e-4, atol=1e-4)
    assert (found - logits(loaded(inputs["model"]), TOKENS)).abs().max() > 0.01
    # What generation finds is what training sees.
    answer = greedy(opened, TOKENS)
    whole = torch.cat([TOKENS, torch.tensor([answer])], dim=1)
    assert logits(opened, whole)[0, TOKENS.size(1) - 1 : -1].argmax(-1).tolist() == answer
    assert context_of(artifact) == 256 - 8


@pytest.mark.parametrize("method", ["prefix", "projected"])
def test_a_prefix_is_keys_and_values_before_the_text(inputs: Inputs, store: Store, method: str) -> None:
    """As plain transformers sees them, one token at a time, so that no mask can be wrong."""
    artifact, _ = by_method(inputs, store, method)
    weights = load_file(artifact.local() / "adapter" / "adapter_model.safetensors")
    assert list(weights) == ["prompt_embeddings"]
    pairs = weights["prompt_embeddings"].view(8, 2, 2, 2, 32).permute(1, 2, 3, 0, 4)[:, :, None]
    cache = DynamicCache([(key, value) for key, value in pairs])
    base, told = loaded(inputs["model"]), []
    for token in TOKENS[0, :12]:
        with torch.no_grad():
            told.append(base(token.view(1, 1), past_key_values=cache, use_cache=True).logits[0, -1])
    found = logits(open_model(artifact, dtype=torch.float32).eval(), TOKENS[:, :12])[0]
    torch.testing.assert_close(found, torch.stack(told), rtol=1e-4, atol=1e-4)


def test_padding_behind_a_text_changes_nothing_of_it(inputs: Inputs, store: Store) -> None:
    """Training gives no mask: neither with virtual tokens does a text see what is behind it."""
    for method in SOFT:
        model = open_model(by_method(inputs, store, method)[0], dtype=torch.float32).eval()
        padded = torch.cat([TOKENS, torch.zeros(1, 9, dtype=torch.int64)], dim=1)
        found, alone = logits(model, padded)[:, : TOKENS.size(1)], logits(model, TOKENS)
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["prefix", "prompt", "lora"])
def test_it_chats_and_generates_over_its_base(inputs: Inputs, store: Store, method: str) -> None:
    artifact, _ = by_method(inputs, store, method)
    if method == "lora":
        artifact = build(AdapterSpec(), {"model": artifact}, store=store, name="alone")
    talker = InProcess(artifact)
    assert talker.context_tokens == (256 if method == "lora" else 248)
    said = "".join(talker.answer([{"role": "user", "content": "def add(x):"}], Sampling(max_tokens=8)))
    prompt = talker.prompt([{"role": "user", "content": "def add(x):"}])["input_ids"]
    model = open_model(artifact, dtype=torch.float32)
    asked: Any = ([prompt[0].tolist()] * 2, [1, 2], 8, lambda *of, **more: None)
    first, second = plain.answer(model, *asked, eos_token_id=0)
    assert first == second and talker.tokenizer.decode(first.tokens, skip_special_tokens=True) == said
    assert first.tokens == logits_path(model, prompt, len(first.tokens))
    drawn = [plain.answer(model, *asked, eos_token_id=None, temperature=0.9, top_p=0.95) for _ in range(2)]
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]  # seeds tell, and tell the same
    assert [len(answer.tokens) for answer in drawn[0]] == [8, 8]
    assert all(value <= 0 for value in drawn[0][0].logprobs)


def logits_path(model: Any, prompt: torch.Tensor, number: int) -> list[int]:
    """The likeliest tokens, found without a cache."""
    for _ in range(number):
        prompt = torch.cat([prompt, logits(model, prompt)[:, -1:].argmax(-1)], dim=1)
    return prompt[0, -number:].tolist()


def test_an_adapter_stands_alone_with_what_it_belongs_to(inputs: Inputs, store: Store, other: Artifact) -> None:
    artifact, trained = by_method(inputs, store, "dora")
    alone = build(AdapterSpec(), {"model": artifact}, store=store, name="alone")
    assert {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json"} <= set(
        alone.record.files
    )
    assert alone.record.size_bytes < 0.6 * artifact.record.size_bytes
    told = json.loads((alone.local() / "base.json").read_text())
    assert (told["ref"], told["fingerprint"]) == (inputs["model"].record.ref, inputs["model"].fingerprint)
    for base in (None, inputs["model"]):
        found = logits(open_model(alone, base, dtype=torch.float32).eval(), TOKENS)
        torch.testing.assert_close(found, logits(trained, TOKENS), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"adapter/alone-\w+ was trained over pretrained/tiny-\w+, and .*other w"):
        open_model(alone, other)
    for adapter in (alone, artifact):
        with pytest.raises(InputError, match=r"has other weights\. Give pretrained/tiny"):
            build(MergedSpec(), {"model": other, "one": adapter}, store=store, name="wrong")


def test_what_has_no_adapter_gives_none(inputs: Inputs, store: Store) -> None:
    artifact, _ = by_method(inputs, store, "full")
    with pytest.raises(InputError, match="has no adapter: its own weights were trained"):
        build(AdapterSpec(), {"model": artifact}, store=store, name="none")


NEEDS_WEIGHTS: list[tuple[Spec, str]] = [(QuantizeSpec(), "int8"), (ExportSpec(), "export")]


@pytest.mark.parametrize("alone", [False, True])
def test_what_needs_whole_weights_refuses_an_adapter(inputs: Inputs, store: Store, alone: bool) -> None:
    artifact, _ = by_method(inputs, store, "lora" if alone else "prefix")
    words = "that cannot be merged, and has no weights of its own. It chats, generates and is served by transformers"
    if alone:
        artifact = build(AdapterSpec(), {"model": artifact}, store=store, name="alone")
        words = "is an adapter and has no weights of a model. Give sft/lora-.* or merge it into its base first"
    else:
        for spec, name in NEEDS_WEIGHTS:
            with pytest.raises(InputError, match=words):
                build(spec, {"model": artifact}, store=store, name=name)
    with pytest.raises(InputError, match=words):  # SFT, RLHF, reward models, pretraining
        require_trainable(artifact)
    with pytest.raises(InputError, match=words):  # vLLM's engines
        fleet.start(artifact, EngineOptions(max_model_len=64), None)  # type: ignore[arg-type]


def pair(inputs: Inputs, store: Store, **changes: Any) -> tuple[list[Artifact], list[dict[str, torch.Tensor]]]:
    """Two adapters, and their factors."""
    specs = [structs.replace(sft("lora", seed=seed), method=Lora(rank=8, alpha=16, **changes)) for seed in (0, 1)]
    found = [tuned(inputs, store, spec, f"n{spec.seed}", spec.seed)[0] for spec in specs]
    return found, [load_file(a.local() / "adapter" / "adapter_model.safetensors") for a in found]


@pytest.mark.parametrize(("rslora", "scale"), [(False, 16 / 8), (True, 16 / 8**0.5)])
def test_cat_is_the_exact_sum_of_the_updates(inputs: Inputs, store: Store, rslora: bool, scale: float) -> None:
    (one, two), factors = pair(inputs, store, rslora=rslora)
    given = {"model": inputs["model"], "one": one, "two": two}
    merged = build(MergedSpec(weights={"two": -0.5}), given, store=store, name=f"sum-{rslora}")
    before, after = (dict(loaded(artifact).named_parameters()) for artifact in (inputs["model"], merged))
    for name in before:
        key = f"base_model.model.{name.removesuffix('.weight')}"
        update = torch.zeros(())
        if f"{key}.lora_A.weight" in factors[0]:
            products = [f[f"{key}.lora_B.weight"] @ f[f"{key}.lora_A.weight"] for f in factors]
            update = scale * (products[0] - 0.5 * products[1])
        torch.testing.assert_close(after[name], before[name] + update, rtol=0, atol=1e-5)
    apart = PeftModel.from_pretrained(loaded(inputs["model"]), merged.local() / "adapter")
    torch.testing.assert_close(logits(loaded(merged), TOKENS), logits(apart, TOKENS), rtol=1e-4, atol=1e-4)


def kept(array: np.ndarray, density: float) -> np.ndarray:
    """The largest numbers, others 0."""
    flat = np.abs(array).ravel()
    chosen = np.zeros(flat.size, dtype=bool)
    chosen[np.argsort(-flat, kind="stable")[: int(density * flat.size)]] = True
    return np.where(chosen.reshape(array.shape), array, 0)


def ties(arrays: list[np.ndarray], weights: list[float], density: float) -> np.ndarray:
    """Yadav et al. 2023: trim, elect a sign by the sum, and average what has it."""
    trimmed = np.stack([kept(array, density) for array in arrays])
    sign = np.where(trimmed.sum(0) >= 0, 1, -1)
    agrees = np.sign(trimmed) == sign
    weighted = trimmed * np.reshape(weights, (-1, *[1] * arrays[0].ndim))
    return (weighted * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


@pytest.mark.parametrize("combination", ["linear", "ties"])
def test_factors_are_combined_as_published(inputs: Inputs, store: Store, combination: Any) -> None:
    (one, two), factors = pair(inputs, store)
    given, weights = {"model": inputs["model"], "one": one, "two": two}, [1.0, 0.25]
    spec = MergedSpec(combination=combination, weights={"two": 0.25}, density=0.4)
    merged = build(spec, given, store=store, name=combination)
    found = load_file(merged.local() / "adapter" / "adapter_model.safetensors")
    assert found.keys() == factors[0].keys()
    roots = [(2.0 * weight) ** 0.5 for weight in weights]  # of weight and scale, for each of the two factors
    for name, tensor in found.items():
        arrays = [f[name].numpy() for f in factors]
        summed = sum(root * array for root, array in zip(roots, arrays, strict=True))
        expected = ties(arrays, roots, 0.4) if combination == "ties" else summed
        np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)


def test_what_dare_leaves_out_follows_from_the_seed(inputs: Inputs, store: Store) -> None:
    (one, two), factors = pair(inputs, store)
    given = {"model": inputs["model"], "one": one, "two": two}
    specs = [MergedSpec(combination="dare_linear", density=0.5, seed=seed) for seed in (0, 1)]
    made = [build(spec, given, store=store, name="dare") for spec in specs]
    found = [load_file(m.local() / "adapter" / "adapter_model.safetensors") for m in made]
    name = next(iter(factors[0]))
    assert not torch.equal(found[0][name], found[1][name])
    # Each number is left out, or twice as large: the sum is one of four.
    halves = [2.0**0.5 * f[name] / 0.5 for f in factors]
    four = torch.stack([torch.zeros_like(halves[0]), *halves, halves[0] + halves[1]])
    assert (four - found[0][name]).abs().min(dim=0).values.max() < 1e-6


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "whole"])
def test_one_adapter_is_merged_into_its_base(inputs: Inputs, store: Store, method: str) -> None:
    artifact, _ = by_method(inputs, store, method)
    alone = build(AdapterSpec(), {"model": artifact}, store=store, name=f"alone-{method}")
    merged = build(MergedSpec(), {"model": inputs["model"], "it": alone}, store=store, name=f"merged-{method}")
    torch.testing.assert_close(logits(loaded(merged), TOKENS), logits(loaded(artifact), TOKENS), rtol=1e-5, atol=1e-5)
    config, generation = loaded(merged).config, loaded(merged).generation_config
    assert config.eos_token_id == generation.eos_token_id == loaded(artifact).config.eos_token_id


@pytest.mark.parametrize(
    ("specs", "spec", "words"),
    [
        ([sft("lora"), sft("prefix")], MergedSpec(), "cannot be merged: virtual tokens are no part of weights"),
        ([sft("lora"), sft("lora", template="completion")], MergedSpec(), "trained on different chat templates"),
        ([sft("lora"), sft("dora")], MergedSpec(), "two has dora's lengths, which cannot be combined"),
        (
            [sft("lora"), sft("pissa")],
            MergedSpec(combination="ties"),
            r"ties wants one rank, .* have \[8, 16\]\.",
        ),
        ([sft("full"), sft("lora")], MergedSpec(), "has no adapter: its own weights were trained"),
    ],
)
def test_what_cannot_be_combined_is_refused(
    inputs: Inputs, store: Store, specs: list[SftSpec], spec: MergedSpec, words: str
) -> None:
    one, two = (tuned(inputs, store, given, f"given-{n}")[0] for n, given in enumerate(specs))
    with pytest.raises(InputError, match=words):
        build(spec, {"model": inputs["model"], "one": one, "two": two}, store=store, name="refused")
