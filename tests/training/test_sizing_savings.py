"""Sizing of what saves memory: activation checkpointing, offloading, adapters over frozen and packed weights."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cluster.control.planning.hardware import Hardware, named
from cluster.control.planning.prediction import Layout, Memory, Placed, Prediction, predict
from cluster.core.errors import SpecError, UsageError
from cluster.core.graph import Step
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import (
    Freeze,
    Full,
    Lora,
    PretrainedSpec,
    PretrainSpec,
    PromptTuning,
    PTuningV2,
    QLora,
    ScalingSpec,
    SftSpec,
)
from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.training.models.packed import stored_bytes
from pipelines.stages.training.objectives.causal import CausalLM
from pipelines.stages.training.sizing.footprint import Footprint, Peak, trace
from pipelines.stages.training.sizing.memory import place
from pipelines.stages.tuning.attention import keep_apart
from pipelines.stages.tuning.methods.method import Method
from pipelines.stages.tuning.recipe import AnswerLM, load_with_rows
from tests.cli.command import ctl
from tests.made import make
from tests.training.tiny import saved_bytes, tokenizer_json

pytestmark = pytest.mark.heavy

LENGTH, NUMBER, VOCAB, HIDDEN = 32, 3, 512, 128
MODELS = ("gpt2-1m", "llama-1m", "pythia-1m", "bloom-1m")
GB = 10**9


def config(model: str, layers: int = 4) -> Any:
    overrides = {"num_hidden_layers": layers}
    return configuration(model, overrides, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=0)


def passed(model: str, layers: int = 4, checkpointing: bool = False) -> int:
    """What a real pass over sequences with a boundary in each saves."""
    built = build_model(config(model, layers), seed=0)
    if checkpointing:
        built.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tokens = torch.ones(NUMBER, LENGTH + 1, dtype=torch.int64)
    tokens[:, 9] = 0
    return saved_bytes(CausalLM(built, 0, "fp32"), tokens)


@pytest.mark.parametrize("model", MODELS)
def test_checkpointing_keeps_what_blocks_are_given_and_the_work_on_one(model: str) -> None:
    """Counted by autograd: what a checkpointed pass saves, and, as what one block more saves, the work on a block.
    Rotary angles, which all blocks are given and autograd is not asked to save, are a twelfth of it at most here."""
    given = passed(model, checkpointing=True) + NUMBER * LENGTH * (LENGTH + 8)  # and mask and tokens
    block = passed(model, 5) - passed(model, 4) - 4 * NUMBER * LENGTH * HIDDEN
    forward, backward = trace(config(model), PretrainSpec(), LENGTH).checkpointed
    assert forward.bytes(NUMBER) == pytest.approx(given + 4 * NUMBER * LENGTH * VOCAB, rel=0.1)
    assert backward.bytes(NUMBER) == pytest.approx(given + 2 * block, rel=0.1)


def test_checkpointing_saves_blocks_of_every_depth_but_one() -> None:
    """Ten more layers: without it ten times what each saves, with it ten times what each is given."""
    few, many = (trace(config("llama-1m", layers), PretrainSpec(), LENGTH) for layers in (2, 12))
    given = 10 * NUMBER * LENGTH * HIDDEN * 4
    assert many.activations_bytes(NUMBER, True) - few.activations_bytes(NUMBER, True) == given
    assert many.activations_bytes(NUMBER) - few.activations_bytes(NUMBER) > 8 * given


class Copies(TorchDispatchMode):
    """Which 16-bit copies of a model's weights are still there."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.weights = {p.untyped_storage()._cdata for p in model.parameters()}
        self.made: list[weakref.ref[torch.Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self.weights:
            self.made.append(weakref.ref(found))
        return found

    def there(self) -> int:
        return sum(copy() is not None for copy in self.made)


def test_checkpointed_blocks_leave_no_copies_of_their_weights_behind() -> None:
    """Autocast's own cache would hold one of every weight until the pass ends: twice a model's parameters in bytes."""
    model = build_model(config("llama-1m"), seed=0)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective, there = CausalLM(model, 0, "bf16"), list[int]()
    for block in model.model.layers:
        block.register_forward_hook(lambda *of: there.append(copies.there()))
    with Copies(model) as copies:
        objective(torch.ones(1, LENGTH + 1, dtype=torch.int64)).backward()
    assert len(copies.made) > 50  # each twice
    assert there[:4] == [0, 0, 0, 0]
    forward, _ = trace(config("llama-1m"), PretrainSpec(precision="bf16"), LENGTH).checkpointed
    assert forward.fixed_bytes == pytest.approx(2 * VOCAB * HIDDEN, rel=0.01)  # the output layer's alone


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_a_glm_can_be_checkpointed_and_learns_the_same(positions: str) -> None:
    overrides = {"position_embedding_type": positions}
    glm = configuration("glm-1m", overrides, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=0)
    tokens = torch.arange(LENGTH).view(1, -1)
    mask = torch.ones(1, 1, LENGTH, LENGTH, dtype=torch.bool).tril()
    found = []
    for checkpointing in (False, True):
        model = build_model(glm, seed=0)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model(tokens, position_ids=torch.stack([tokens, tokens], dim=1), attention_mask=mask).logits.sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert trace(glm, PretrainSpec(objective="infilling_short"), LENGTH).checkpointed


MODEL = Footprint(1000, 1000, 0, 100, 8000, 0, (Peak(10, 100),), (Peak(5, 50),))


def parts(memory: Memory | None) -> tuple[int, ...]:
    assert memory
    return memory.weights, memory.gradients, memory.optimizer


@pytest.mark.parametrize(
    ("stage", "offload", "device", "host"),
    [
        # Weights 4000 bytes, a fourth of gradients 1000, of DeepSpeed's copy and AdamW's moments 1000 + 2000.
        (2, ("cpu", "none"), (4000, 0, 0), (0, 1000, 3000)),
        (3, ("cpu", "none"), (5000, 0, 0), (0, 1000, 3000)),
        (3, ("none", "cpu"), (4000, 1000, 3000), (1000, 0, 0)),
        (3, ("cpu", "cpu"), (4000, 0, 0), (1000, 1000, 3000)),
    ],
)
def test_what_is_offloaded_is_in_main_memory(
    stage: int, offload: tuple[Any, Any], device: tuple[int, ...], host: tuple[int, ...]
) -> None:
    layout = Layout(stage, 2, False, *offload)
    found = place(MODEL, layout, 4, on_cpu=False, accumulates=False)
    assert (parts(found.memory), parts(found.host_memory)) == (device, host)
    both = place(MODEL, layout, 4, on_cpu=True, accumulates=False)  # a CPU has one memory for both
    assert both.host_memory is None
    assert parts(both.memory) == tuple(map(sum, zip(device, host, strict=True)))


def test_frozen_weights_have_neither_gradient_nor_optimizer() -> None:
    """Of 1,000 weights 100 are trained; the others take 450 bytes. ZeRO 3 cuts these too."""
    model = Footprint(1000, 100, 0, 10, 800, 450, (Peak(0, 0),), ())
    found = place(model, Layout(1, 1), 2, on_cpu=True, accumulates=False).memory
    assert parts(found) == (400 + 450, 200, 200 + 400)
    assert found.checkpoint == (400 + 800) / 2
    assert place(model, Layout(3, 1), 2, on_cpu=True, accumulates=False).memory.weights == 200 + 225 + 400 + 450


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    """A Llama of random weights: hidden 128, four layers, 352 wide, tied, 512 pieces."""
    folder = tmp_path_factory.mktemp("base")
    build_model(config("llama-1m"), seed=0).save_pretrained(folder / "model")
    files = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    store = Store(folder / "store")
    return store, make(store, PretrainedSpec(), {}, files | {"tokenizer.json": tokenizer_json()}, "tiny")


def tuned(base: tuple[Store, Artifact], hardware: Hardware, method: Method, **scaling: Any) -> Prediction:
    store, model = base
    spec = SftSpec(method=method, sequence_length=LENGTH, global_batch_size=NUMBER)
    found = predict(Step("sft", spec, {"model": model}, ""), store, ScalingSpec(num_workers=1, **scaling), hardware)
    assert found
    return found


LINEAR = 4 * (4 * HIDDEN**2 + 3 * HIDDEN * 352)
ROWS = 4 * (5 * HIDDEN + 2 * 352)  # outputs of these layers
ADAPTER = 4 * 4 * (4 * 2 * HIDDEN + 3 * (HIDDEN + 352))  # rank 4 at both ends of seven layers, in four blocks
OTHER = VOCAB * HIDDEN + 9 * HIDDEN  # tied embeddings, norms
SCALES = LINEAR // 64


@pytest.mark.parametrize(
    ("method", "linear_bytes"),
    [
        (Lora(rank=4), 4 * LINEAR),
        # Half a byte, an fp32 scale each 64, and the 16 values for each layer.
        (QLora(rank=4, double_quantization=False), LINEAR // 2 + 4 * SCALES + 28 * 16 * 4),
        # A byte for each scale, an fp32 scale each 256 of these, the 256 values and the mean for each layer.
        (QLora(rank=4), LINEAR // 2 + SCALES + 4 * SCALES // 256 + 28 * (16 + 256 + 1) * 4),
        (QLora(rank=4, weights="int8"), LINEAR + 4 * ROWS),
    ],
)
def test_a_frozen_base_takes_what_it_is_stored_in(
    base: tuple[Store, Artifact], method: Method, linear_bytes: int
) -> None:
    found = tuned(base, named("a10"), method, zero_stage=0)
    assert (found.parameters, found.trained_parameters) == (LINEAR + OTHER + ADAPTER, ADAPTER)
    assert found.memory.weights == pytest.approx(linear_bytes + 4 * (OTHER + ADAPTER), abs=1000)  # rotary angles
    assert (found.memory.gradients, found.memory.optimizer) == (4 * ADAPTER, 8 * ADAPTER)
    # Forward, and backward but for the gradients of frozen weights.
    attention = 12 * 4 * HIDDEN * LENGTH
    assert found.flops_per_token == 4 * (LINEAR + OTHER) + 6 * ADAPTER + attention


BLOCK = LINEAR // 4 + 2 * HIDDEN  # with its two norms


@pytest.mark.parametrize(
    ("method", "parameters", "trained"),
    [
        (Full(), LINEAR + OTHER, LINEAR + OTHER),
        (Freeze(layers=1), LINEAR + OTHER, BLOCK),
        (Freeze(layers=2, end="first", also=("embeddings",)), LINEAR + OTHER, 2 * BLOCK + VOCAB * HIDDEN),
        (Lora(rank=4, dora=True), LINEAR + OTHER + ADAPTER + ROWS, ADAPTER + ROWS),
        (Lora(rank=4, init="pissa"), LINEAR + OTHER + ADAPTER, ADAPTER),
        (PTuningV2(pre_seq_len=8), LINEAR + OTHER + 8 * 4 * 2 * HIDDEN, 8 * 4 * 2 * HIDDEN),
        (PromptTuning(tokens=8), LINEAR + OTHER + 8 * HIDDEN, 8 * HIDDEN),
    ],
)
def test_what_is_trained_is_counted(
    base: tuple[Store, Artifact], method: Method, parameters: int, trained: int
) -> None:
    found = tuned(base, named("a10"), method, zero_stage=0)
    assert (found.parameters, found.trained_parameters) == (parameters, trained)
    assert (found.memory.gradients, found.memory.optimizer) == (4 * trained, 8 * trained)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("method", "packing", "masked"),
    [
        (Lora(rank=4), False, False),
        (QLora(rank=4), False, False),
        (QLora(rank=4, weights="int8"), False, False),
        (PTuningV2(), False, False),
        (Lora(rank=4), True, False),
        (Lora(rank=4), True, True),
    ],
)
def test_activations_over_a_frozen_base_are_what_a_real_pass_saves(
    base: tuple[Store, Artifact], method: Method, packing: bool, masked: bool, precision: Any
) -> None:
    """And the weights of the real model, packed ones too, are as many bytes as predicted. Packed conversations are kept
    apart without a mask, or with one, which a compiled model needs."""
    store, model = base
    spec = SftSpec(
        method=method, sequence_length=LENGTH, global_batch_size=NUMBER, precision=precision, packing=packing
    )
    scaling = ScalingSpec(num_workers=1, compile=masked)
    found = predict(Step("sft", spec, {"model": model}, ""), store, scaling, named("a10"))
    assert found
    real = load_with_rows(model.local(), spec, {"vocab_size": VOCAB, "eos_token_id": 0})
    if packing:
        keep_apart(real, scaling)
    stored = sum(stored_bytes(p) for p in real.parameters())
    objective = AnswerLM(method.apply(real, 0), precision).train()
    added = sum(p.nbytes for p in objective.parameters() if p.requires_grad)
    assert found.memory.weights == pytest.approx(stored + added, abs=1000)
    tokens = torch.ones(NUMBER, LENGTH + 1, dtype=torch.int64)
    learn = torch.ones(NUMBER, LENGTH, dtype=torch.bool)
    batch = {"tokens": tokens, "learn": learn}
    if packing:
        batch["starts"] = torch.arange(LENGTH).expand(NUMBER, LENGTH) % 10 == 0
    kept = saved_bytes(objective, batch)
    logits = NUMBER * LENGTH * VOCAB * (4 if precision == "fp32" else 2)
    size = {"nf4": 4 if precision == "fp32" else 2, "int8": 4}.get(getattr(method, "weights", ""), 0)
    assert found.memory.activations == pytest.approx(kept + logits + HIDDEN * 352 * size, rel=0.03)


@pytest.mark.parametrize(
    ("method", "scaling", "words"),
    [
        (QLora(), {"zero_stage": 3}, "ZeRO 3 cannot cut the packed weights"),
        (Lora(dora=True), {"zero_stage": 3}, "ZeRO 3 cannot cut weights whose lengths dora takes"),
        (PTuningV2(), {"activation_checkpointing": True}, "read the prefix of p-tuning-v2 cannot be computed again"),
        (PromptTuning(), {"num_workers": 2, "sequence_parallel_size": 2}, "cannot share the virtual tokens"),
        (Freeze(), {"num_workers": 2, "tensor_parallel_size": 2}, "what freeze trains is not cut"),
    ],
)
def test_what_a_method_cannot_do_is_not_sized(
    base: tuple[Store, Artifact], method: Method, scaling: dict[str, Any], words: str
) -> None:
    store, model = base
    with pytest.raises(SpecError, match=words):
        predict(Step("sft", SftSpec(method=method), {"model": model}, ""), store, ScalingSpec(**scaling), named("a10"))


def prediction(placed: Placed, hardware: Hardware) -> Prediction:
    return Prediction(hardware, 4, "bf16", 10**9, 10**9, placed, 1.0, 1.0, 1, None, None)


def test_each_memory_is_held_against_its_own() -> None:
    """20 GB offloaded do not fit into 16 GB of main memory, though the GPU's would hold them."""
    model = Footprint(4 * GB, 4 * GB, 0, 1, 32 * GB, 0, (Peak(0, 1),), (Peak(0, 1),))
    placed = place(model, Layout(2, 1, False, "cpu"), 4, on_cpu=False, accumulates=False)
    gpu = Hardware("some GPU", 80 * GB, host_memory_bytes=64 * GB)
    assert prediction(placed, gpu).fits
    small = Hardware("some GPU", 80 * GB, host_memory_bytes=10 * GB)
    assert not prediction(placed, small).fits
    with pytest.raises(SpecError, match=r"take 12\.0 GB of main memory.*which have 10\.0 GB each"):
        prediction(placed, small).require_fit("pretrain")
    assert prediction(placed, Hardware("some GPU", 80 * GB)).fits  # of main memory nothing is known
    assert prediction(placed, gpu).tokens_per_second() is None


def test_main_memory_behind_the_name_of_a_gpu() -> None:
    assert named("h100:256").host_memory_bytes == 256 * GB
    assert (named("h100").host_memory_bytes, named("h100:256").name) == (0, "h100")
    with pytest.raises(UsageError, match="h100:256"):
        named("h100:lots")


def planned(tmp_path: Path, hardware: str, *sets: str, as_json: bool = True) -> Any:
    command = ["plan", "pipelines/pretrain.py", "--store", tmp_path, "--hardware", hardware]
    done = ctl(*command, *(["--json"] if as_json else []), *(word for one in sets for word in ("--set", one)))
    if not as_json:
        return done
    return {item["step"]: item["prediction"] for item in json.loads(done.stdout)}["pretrain"]


LONG = ("tokens.sequence_length=32768", "pretrain.model=llama3-8b", "pretrain.precision=bf16", "scaling.num_workers=8")


@pytest.mark.exhaustive
def test_ctl_plan_says_what_checkpointing_would_need(tmp_path: Path) -> None:
    sets = (*LONG, "scaling.zero_stage=3", "scaling.micro_batch_size=1", "pretrain.global_batch_size=8")
    found = planned(tmp_path, "h200", *sets)
    assert not found["fits"]
    assert found["instead"]["activation_checkpointing"]
    needed = found["instead"]["memory_per_worker"]["total_bytes"]
    again = planned(tmp_path, "h200", *sets, "scaling.activation_checkpointing=true")
    assert again["fits"]
    assert again["memory_per_worker"]["total_bytes"] == needed
    assert again["flops_per_token"] == pytest.approx(4 / 3 * found["flops_per_token"])


@pytest.mark.exhaustive
def test_ctl_plan_offers_main_memory_where_it_is_known(tmp_path: Path) -> None:
    sets = ("pretrain.model=llama3-8b", "pretrain.precision=bf16", "scaling.num_workers=2", "scaling.zero_stage=3")
    refused = planned(tmp_path, "a100-80gb:400", *sets, as_json=False)
    assert "main memory" in refused.stdout
    assert "scaling.offload_optimizer=cpu" in refused.stdout
    assert "optimizer in main memory" in refused.stdout.partition("recommended")[2]
    assert "recommended   more workers" in planned(tmp_path, "a100-80gb", *sets, as_json=False).stdout
