"""Methods as fields of a spec, their formulas against plain numpy, and what is refused before any training."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
)

from cluster.core.adapters import text_only
from cluster.core.errors import SpecError
from cluster.core.specs.overlay import steps
from cluster.core.specs.spec import convert, fingerprint, override
from pipelines.specs import Freeze, Full, Lora, PromptTuning, PTuningV2, QLora, ScalingSpec, SftSpec
from pipelines.stages.training.objectives.objective import Objective
from pipelines.stages.training.optimizers.optimizers import build_optimizer
from pipelines.stages.tuning.methods.method import blocks
from pipelines.stages.tuning.neftune import add_noise, noise_of
from tests.tuning.tiny_sft import METHODS

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip


def tiny(tied: bool = False) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))


def test_a_method_is_laid_over_by_its_type() -> None:
    """As `--set sft.method.type=lora --set sft.method.rank=8` and as a mapping."""
    spec = override(SftSpec(), steps({"sft": {"method": {"type": "lora", "rank": 8}}})["sft"], "sft")
    assert spec.method == Lora(rank=8)
    assert override(spec, steps({"sft": {"method": {"alpha": 4}}})["sft"], "sft").method == Lora(rank=8, alpha=4)
    assert override(spec, {"method": {"type": "p-tuning-v2"}}, "sft").method == PTuningV2()
    assert len({fingerprint(SftSpec(method=method), {}) for method in METHODS.values()}) == len(METHODS)
    for method in METHODS.values():
        assert convert(msgspec.to_builtins(SftSpec(method=method)), SftSpec, "sft").method == method


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"method": {"type": "lorra"}}, r"sft\.method\.type: there is no 'lorra'.*lora"),
        ({"method": {"type": "lora", "rnk": 8}}, r"sft\.method\.rnk: unknown field.*rank"),
        ({"method": {"type": "lora", "targets": "linear"}}, r"sft\.method\.targets: .*all-linear"),
        ({"method": {"type": "lora", "targets": []}}, "none is named"),
        ({"method": {"type": "lora", "init": "pissa", "dora": True}}, "dora: does not go with `init: pissa`"),
        ({"method": {"type": "lora", "init": "pissa", "also": ["head"]}}, "also: does not go with `init: pissa`"),
        ({"method": {"type": "qlora", "init": "pissa"}}, "packed weights have no components"),
        ({"method": {"type": "qlora", "weights": "int8"}, "precision": "fp16"}, "in fp16 already"),
        ({"method": {"type": "prompt-tuning"}, "optimizer": "muon"}, "muon trains whole matrices"),
        ({"adapter": "lora"}, r"sft\.adapter: unknown field"),
    ],
)
def test_a_method_that_cannot_be_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        convert(fields, SftSpec, "sft")


def test_layers_that_a_model_does_not_have() -> None:
    config = LlamaConfig(**SIZES)
    with pytest.raises(SpecError, match=r"no layer of llama is called 'q_prj'.*q_proj"):
        Lora(targets=("v_proj", "q_prj")).check_model(config)
    Lora(targets=("v_proj", "self_attn.q_proj")).check_model(config)
    with pytest.raises(SpecError, match="layers: 4, and the model has 3"):
        Freeze(layers=4).check_model(config)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 12 / 4), (True, 12 / math.sqrt(4))])
def test_the_scale_of_an_update(rslora: bool, scale: float) -> None:
    """Hu et al. 2021: alpha / r; Kalajdzievski 2023: alpha / sqrt(r)."""
    method = Lora(rank=4, alpha=12, rslora=rslora, targets=("q_proj",))
    assert method.scaling == scale
    model = method.apply(tiny(), 0)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    with torch.no_grad():
        up.normal_()
        x = torch.randn(5, 16)
        weight = layer.base_layer.weight.numpy() + scale * up.numpy() @ down.numpy()
        np.testing.assert_allclose(layer(x).numpy(), x.numpy() @ weight.T, rtol=1e-4, atol=1e-5)


def test_dora_scales_rows_by_their_learned_lengths() -> None:
    """Liu et al. 2024, equation 5: m * (W + s B A) / ||W + s B A||, the norm of each output's row."""
    model = Lora(rank=4, alpha=8, dora=True, targets=("q_proj",)).apply(tiny(), 0)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    lengths = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        lengths.mul_(1.5)
        x = torch.randn(5, 16)
        update = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).numpy()
        weight = layer.base_layer.weight.numpy() + 2.0 * update
        weight = lengths.numpy()[:, None] * weight / np.linalg.norm(weight, axis=1, keepdims=True)
        np.testing.assert_allclose(layer(x).numpy(), x.numpy() @ weight.T, rtol=1e-4, atol=1e-5)


def test_pissa_takes_the_main_components_out_of_the_weights() -> None:
    plain = tiny()
    before = plain.model.layers[0].self_attn.q_proj.weight.detach().numpy().copy()
    method = Lora(rank=4, alpha=8, init="pissa", pissa_iterations=0)
    layer = method.apply(plain, 0).base_model.model.model.layers[0].self_attn.q_proj
    update = 2.0 * (layer.lora_B["default"].weight @ layer.lora_A["default"].weight).detach().numpy()
    u, s, v = np.linalg.svd(before)
    np.testing.assert_allclose(update, u[:, :4] * s[:4] @ v[:4], atol=1e-5)
    np.testing.assert_allclose(layer.base_layer.weight.detach().numpy() + update, before, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "adamw8bit"])
def test_lora_plus_has_two_learning_rates(optimizer: Any) -> None:
    method = Lora(rank=4, lora_plus_ratio=16.0, also=("head",))
    model = method.apply(tiny(), 0)
    found = build_optimizer(model, SftSpec(method=method, optimizer=optimizer, learning_rate=1e-3), method.rate)
    rates = {id(p): group["peak"] for group in found.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters() if p.requires_grad}
    assert {rate for name, rate in named.items() if "lora_B" in name} == {16e-3}
    assert {rate for name, rate in named.items() if "lora_B" not in name} == {1e-3}
    assert len(rates) == len(named)


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_trained_besides(tied: bool) -> None:
    """A tied head is one matrix with the embedding, and stays so."""
    for also in (("embeddings", "head"), ("embeddings",)):
        method = Lora(rank=4, also=also)
        model = method.apply(tiny(tied), 0)
        whole = {n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n}
        assert len(whole) == (1 if tied else len(also))
        merged = model.merge_and_unload()
        assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
        assert method.learns_rows(tied) == (tied or len(also) == 2)


FAMILIES = [LlamaConfig(**SIZES), GPTNeoXConfig(**SIZES), GPT2Config(n_layer=3, n_embd=16, n_head=2)]


@pytest.mark.parametrize("config", FAMILIES)
def test_layers_are_found_whatever_the_family_calls_them(config: Any) -> None:
    model = AutoModelForCausalLM.from_config(config)
    assert len(blocks(model)) == 3
    Freeze(layers=1, end="first").apply(model, 0)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in blocks(model)[0].parameters()}


WITH_PREFIX = [
    *FAMILIES,
    LlamaConfig(**SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2}),
    Qwen3Config(**SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}),
    Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=8),
    BloomConfig(vocab_size=40, hidden_size=16, n_layer=3, n_head=2),
]


@pytest.mark.parametrize("method", [PTuningV2(pre_seq_len=4), PromptTuning(tokens=4)])
@pytest.mark.parametrize("config", WITH_PREFIX)
def test_virtual_tokens_before_any_family(config: Any, method: Any) -> None:
    """They are seen, what is behind a token is not, and a cache that grows token by token finds the same."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    tokens = torch.arange(5, 14)[None]
    with torch.no_grad():
        before = model(tokens).logits
        adapted = text_only(method.apply(model, 0)).eval()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_()
        found = adapted(tokens, use_cache=False).logits
        longer = adapted(torch.cat([tokens, tokens], dim=1), use_cache=False).logits
        asked = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        answer = adapted.generate(**asked, max_new_tokens=6, do_sample=False)
        path = adapted(answer, use_cache=False).logits[0, 8:-1].argmax(-1)
    assert found.shape == before.shape and (found - before).abs().max() > 1e-3
    torch.testing.assert_close(longer[:, :9], found, rtol=1e-4, atol=1e-5)
    assert path.tolist() == answer[0, 9:].tolist()


@pytest.mark.parametrize("config", WITH_PREFIX)
def test_a_prefix_begins_as_text_of_the_model(config: Any) -> None:
    """Drawn by the seed; what is read behind it is read as behind these tokens."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.arange(5, 14)[None]
    before = torch.randint(config.vocab_size, (1, 4), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = model(torch.cat([before, tokens], dim=1), use_cache=False).logits[:, 4:]
        found = PTuningV2(pre_seq_len=4).apply(model, 3).eval()(tokens, use_cache=False).logits
        noise = PTuningV2(pre_seq_len=4, init="random").apply(model.requires_grad_(False), 3)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert (noise.eval()(tokens, use_cache=False).logits - expected).abs().max() > 1e-3


def test_updates_of_transposed_layers() -> None:
    """GPT-2 stores its linear layers the other way round."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=40))
    whole = Lora(rank=2).apply(model, 0)
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        tokens = torch.arange(9)[None]
        before = whole.eval()(tokens).logits
        torch.testing.assert_close(whole.merge_and_unload()(tokens).logits, before, rtol=1e-4, atol=1e-4)


class Embedding(Objective):
    """An objective that tells the embeddings of its batch."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.get_input_embeddings()(batch["tokens"][:, :-1])


def batch(*rows: list[int], length: int = 0) -> dict[str, torch.Tensor]:
    size = max(length, *map(len, rows))
    tokens = torch.tensor([row + [0] * (size - len(row)) for row in rows])
    learn = torch.tensor([[place >= 2 and place < len(row) for place in range(1, size)] for row in rows])
    return {"tokens": tokens, "learn": learn}


def test_neftune_noise_is_as_published() -> None:
    """Jain et al. 2023: uniform in [-1, 1], times alpha / sqrt(L d), L the sequence's own length."""
    long, short = list(range(1, 31)), list(range(1, 8))
    noise = noise_of(batch(long, short), width=16, alpha=5.0, seed=3).numpy()
    for row, tokens in zip(noise, (long, short), strict=True):
        inputs = len(tokens)
        bound = 5.0 / math.sqrt(inputs * 16)
        assert not row[inputs:].any()
        assert 0.9 * bound < np.abs(row[:inputs]).max() <= bound
        assert abs(row[:inputs].mean()) < 0.2 * bound
        assert row[:inputs].std() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_neftune_noise_depends_on_step_and_text_alone() -> None:
    first, second = [5, 6, 7, 8, 9, 0], [9, 8, 7, 6]  # an end of text may have the id that pads
    objective = Embedding(tiny(), "fp32")
    plain = objective(batch(first, second))
    add_noise(objective, 5.0, seed=1)
    objective.train()
    objective.step = 7
    both = objective(batch(first, second))
    assert not torch.equal(both, plain)
    torch.manual_seed(99)  # nothing of the process's own generator
    longer = objective(batch(second, first, length=12))
    assert torch.equal(longer[1, :5], both[0, :5]) and torch.equal(longer[0, :4], both[1, :4])
    assert torch.equal(longer[1, 6:], objective.model.get_input_embeddings().weight[:1].expand(5, -1))
    objective.step = 8
    assert not torch.equal(objective(batch(first, second)), both)
    objective.eval()
    assert torch.equal(objective(batch(first, second)), plain)


def test_packed_conversations_have_the_noise_that_they_have_alone() -> None:
    first, second = [5, 6, 7, 8], [9, 8, 7, 6, 5]
    alone = noise_of(batch(first, second, length=8), width=4, alpha=5.0, seed=3)
    packed = batch(first + second, length=12)
    packed["starts"] = torch.tensor([[place in (0, 4, 9) for place in range(11)]])  # and where padding does
    found = noise_of(packed, width=4, alpha=5.0, seed=3)[0]
    assert torch.equal(found[:4], alone[0, :4]) and torch.equal(found[4:9], alone[1, :5]) and not found[9:].any()


@pytest.mark.parametrize(
    ("method", "scaling", "words"),
    [
        (QLora(), {"zero_stage": 3}, "ZeRO 3 cannot cut the packed weights of qlora"),
        (Lora(dora=True), {"zero_stage": 3}, "ZeRO 3 cannot cut weights whose lengths dora takes"),
        (PTuningV2(), {"activation_checkpointing": True}, "layers that have read the prefix of p-tuning-v2"),
        (PTuningV2(), {"num_workers": 2, "sequence_parallel_size": 2}, "cannot share the virtual tokens"),
    ],
)
def test_layouts_that_a_method_has_not(method: Any, scaling: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        SftSpec(method=method).check_scaling(ScalingSpec(**scaling))
    SftSpec(method=Full()).check_scaling(ScalingSpec(**scaling))
