"""Workers that share every layer: what undivided runs find, but for the order of additions."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cluster.control.planning.hardware import named
from cluster.control.planning.prediction import predict
from cluster.core.build import build
from cluster.core.errors import SpecError
from cluster.core.graph import Step
from cluster.core.metrics import LOSS, TOKENS, read
from cluster.core.specs.spec import convert
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import Lora, RewardSpec, ScalingSpec, SftSpec
from pipelines.stages.training.batches import plan_batches
from pipelines.stages.training.checkpoints.shards import Piece
from pipelines.stages.training.models.models import configuration, load_model
from pipelines.stages.training.parallel.cuts import Block
from pipelines.stages.training.parallel.tensor_parallel import check_cut
from pipelines.stages.training.sizing.footprint import trace
from tests.training.tiny import BATCH, EOS, LENGTH, VOCAB, make_tokens, pretrain, run_rounds

pytestmark = pytest.mark.heavy

STEPS = 5
CLIP = 0.5  # below every norm of these runs
SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model": "llama-1m", "model_overrides": SMALL | {"num_key_value_heads": 2}},
    # Those who share layers must drop alike; equal micro-batches draw alike.
    "gpt_neox": {"model": "pythia-1m", "model_overrides": SMALL | {"hidden_dropout": 0.1}},
}
TWO = {"num_workers": 2, "tensor_parallel_size": 2}


def round_(workers: int, size: int, zero_stage: int, **more: Any) -> dict[str, Any]:
    end = {"stop_at": more.pop("stop_at")} if "stop_at" in more else {}
    scaling = {"num_workers": workers, "tensor_parallel_size": size, "zero_stage": zero_stage}
    return {"scaling": scaling | more, **end}


def case(name: str, *rounds: dict[str, Any], **changes: Any) -> tuple[str, dict[str, Any]]:
    """A case of the family that its name begins with."""
    spec = {"steps": STEPS, "learning_rate": 3e-3, "max_grad_norm": CLIP, **MODELS[name.partition("-")[0]]}
    return name, {"spec": spec | changes, "rounds": list(rounds)}


WHOLE = [case(family, round_(1, 1, 0, micro_batch_size=4, statistics_every=STEPS)) for family in MODELS]
CUT = [
    case("llama-zero0", round_(2, 2, 0, micro_batch_size=4, activation_checkpointing=True)),
    case("llama-zero1", round_(2, 2, 1, micro_batch_size=2, statistics_every=STEPS)),
    case("llama-zero2", round_(2, 2, 2, micro_batch_size=4, offload_optimizer="cpu")),
    case("llama-twice", round_(4, 2, 1, micro_batch_size=2, statistics_every=STEPS)),
    case("gpt_neox-zero0", round_(2, 2, 0, micro_batch_size=4, statistics_every=STEPS)),
    case("gpt_neox-zero1", round_(2, 2, 1, micro_batch_size=4)),
    case("gpt_neox-zero2", round_(2, 2, 2, micro_batch_size=4)),
    # Each goes on from what another layout has saved: some cut, some not, some of it in the middle of a row.
    case(
        "llama-elastic",
        round_(1, 1, 0, stop_at=1),
        round_(4, 2, 0, stop_at=2),
        round_(2, 2, 2, stop_at=3),
        round_(4, 1, 3, stop_at=4),
        round_(4, 2, 2),
    ),
    case(
        "gpt_neox-elastic",
        round_(4, 4, 1, micro_batch_size=4, stop_at=2),
        round_(2, 2, 0, micro_batch_size=4, stop_at=3),
        round_(1, 1, 1, micro_batch_size=4),
    ),
]
ROUGH = [
    case("llama-bf16", round_(2, 2, 2), precision="bf16"),
    case("gpt_neox-fp16", round_(2, 2, 2, micro_batch_size=4), precision="fp16"),
    case("llama-8bit", round_(2, 2, 1), optimizer="adamw8bit"),
]
CASES = dict([*WHOLE, *CUT, *ROUGH])
EXACT = [name for name, _ in CUT]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    return run_rounds(tmp_path_factory.mktemp("tensor"), CASES)


def trajectory(runs: Path, name: str) -> list[float]:
    """Losses of all steps and, last, the validation loss."""
    losses = [line[LOSS] for line in read(Location(runs / name))]
    return [*losses, json.loads((runs / name / "figures.json").read_text())["validation_loss"]]


@pytest.mark.parametrize("name", EXACT)
def test_losses_and_norms_are_those_of_whole_layers(runs: Path, name: str) -> None:
    lines, reference = (read(Location(runs / case)) for case in (name, name.partition("-")[0]))
    for figure in (LOSS, "grad_norm", TOKENS):
        assert [line[figure] for line in lines] == pytest.approx([line[figure] for line in reference], rel=1e-5), figure
    assert lines[-1][TOKENS] == STEPS * BATCH * LENGTH
    assert min(line["grad_norm"] for line in lines) > CLIP
    assert trajectory(runs, name) == pytest.approx(trajectory(runs, name.partition("-")[0]), rel=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_the_model_is_whole(runs: Path, name: str) -> None:
    """Its weights are those of undivided runs, but for the biases of keys, which only rounding moves."""
    folder, whole = runs / name, runs / name.partition("-")[0]
    found, expected = (flat(load_file(each / "model.safetensors")) for each in (folder, whole))
    assert torch.linalg.vector_norm(found - expected) < 1e-5 * torch.linalg.vector_norm(expected)
    assert (folder / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    assert load_model(folder).num_parameters() == load_model(whole).num_parameters()


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """All weights as one vector, but for the biases that keys have a part in."""
    return torch.cat([weights[name].flatten() for name in sorted(weights) if not name.endswith("query_key_value.bias")])


@pytest.mark.parametrize("name", ["llama-zero1", "llama-twice", "gpt_neox-zero0"])
def test_statistics_are_of_the_whole_model(runs: Path, name: str) -> None:
    """What each of a group has whole counts once."""
    found, expected = (
        json.loads((runs / each / "statistics.jsonl").read_text().splitlines()[-1])["blocks"]
        for each in (name, name.partition("-")[0])
    )
    assert found.keys() == expected.keys()
    for block, figures in expected.items():
        assert found[block] == pytest.approx(figures, rel=1e-4, abs=1e-6), block


@pytest.mark.parametrize(("name", "tolerance"), [("llama-bf16", 2e-2), ("gpt_neox-fp16", 2e-3), ("llama-8bit", 1e-3)])
def test_fewer_bits_stay_close_to_fp32(runs: Path, name: str, tolerance: float) -> None:
    found, expected = trajectory(runs, name), trajectory(runs, name.partition("-")[0])
    assert found != expected
    assert found == pytest.approx(expected, rel=tolerance)


def reads(runs: Path, name: str, number: int) -> list[list[Any]]:
    """What each rank of a round read: steps and their samples."""
    paths = sorted((runs / name).glob(f"reads-{number}-*.jsonl"))
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths]


def test_ranks_that_share_layers_read_the_same(runs: Path) -> None:
    (one,) = reads(runs, "llama", 0)
    first, second, third, fourth = reads(runs, "llama-twice", 0)
    assert first == second and third == fourth
    assert [[step, [*samples, *others]] for (step, samples), (_, others) in zip(first, third, strict=True)] == one


@pytest.mark.parametrize(
    ("family", "step", "ranks"), [("llama", 3, 2), ("llama", 4, 4), ("gpt_neox", 2, 4), ("gpt_neox", 3, 2)]
)
def test_a_checkpoint_holds_each_element_once(runs: Path, family: str, step: int, ranks: int) -> None:
    """All ranks' data together is as large as weights and moments are."""
    whole = sum(weight.numel() for weight in load_file(runs / family / "model.safetensors").values())
    files = list((runs / f"{family}-elastic" / ".train").glob(f"checkpoints/step-{step:08d}-*/*.safetensors"))
    assert len(files) == ranks
    assert sum(tensor.numel() for file in files for tensor in load_file(file).values()) == 3 * whole


@pytest.mark.parametrize(("family", "matrices"), [("llama", 9216), ("gpt_neox", 8352)])
def test_each_of_two_has_half_of_the_layers(runs: Path, family: str, matrices: int) -> None:
    """What the second saves is half of both layers' matrices (and biases by outputs), and their moments."""
    (part,) = (runs / f"{family}-elastic" / ".train").glob("checkpoints/step-00000003-*/00001-of-00002.safetensors")
    assert sum(tensor.numel() for tensor in load_file(part).values()) == 3 * 2 * matrices // 2


@given(rows=st.integers(1, 5), width=st.integers(1, 5), cuts=st.lists(st.integers(0, 25), max_size=4))
def test_pieces_of_a_block_are_rectangles_of_the_whole(rows: int, width: int, cuts: list[int]) -> None:
    """However ZeRO divides what a rank has of a weight, from row 3 and column 2."""
    own = torch.arange(rows * width)
    whole = torch.full((3 + rows + 1, 2 + width + 1), -1)
    bounds = [0, *sorted(min(cut, len(own)) for cut in cuts), len(own)]
    for begin, end in itertools.pairwise(bounds):
        shard = torch.cat([torch.full((7,), -2), own[begin:end]])
        for part in Piece("w", Block(3, 2, width), begin, end - begin, 7).rectangles():
            whole[part.row : part.row + part.height, part.column : part.column + part.width] = part.of(shard)
    assert torch.equal(whole[3:-1, 2:-1], own.view(rows, width))
    assert (whole == -1).sum() == whole.numel() - len(own)


@pytest.mark.parametrize(
    ("scaling", "changes", "words"),
    [
        ({"num_workers": 6}, {}, "do not divide among 3 groups of 2 workers"),
        ({"num_workers": 8, "tensor_parallel_size": 8}, {}, "8 does not divide the model's 4 attention heads"),
        ({"num_workers": 4, "tensor_parallel_size": 4}, {}, "4 does not divide the model's 2 key/value heads"),
        ({}, {"model_overrides": SMALL | {"intermediate_size": 57}}, r"57 columns of the MLP \(intermediate_size\)"),
        ({}, {"model": "gpt2-1m", "model_overrides": {}}, "the family 'gpt2' is not cut"),
        ({}, {"optimizer": "muon"}, "muon needs whole matrices"),
        ({}, {"optimizer": "adafactor"}, "adafactor needs whole matrices"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    tmp_path: Path, scaling: dict[str, int], changes: dict[str, Any], words: str
) -> None:
    """By the stage and by `ctl plan`, before a cluster is asked for."""
    store, spec = Store(tmp_path), pretrain(STEPS, **(MODELS["llama"] | changes))
    inputs = {"tokens": make_tokens(store)}
    with pytest.raises(SpecError, match=words):
        build(spec, inputs, store=store, scaling=ScalingSpec(**(TWO | scaling)), name="tiny")
    with pytest.raises(SpecError, match=words):
        predict(Step("pretrain", spec, inputs, ""), store, ScalingSpec(**(TWO | scaling)), named("a10"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_workers": 3}, "2 does not divide the 3 workers"),
        ({"zero_stage": 3}, "not with ZeRO 3"),
        ({"compile": True}, "are not compiled"),
        ({"num_workers": 4, "sequence_parallel_size": 2}, "do not share layers as well"),
    ],
)
def test_layouts_that_do_not_go_together_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=rf"scaling\.tensor_parallel_size: .*{words}"):
        convert(TWO | fields, ScalingSpec, "scaling")


def test_adapters_are_refused() -> None:
    config = configuration("llama-1m", SMALL, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=EOS)
    check_cut(ScalingSpec(**TWO), SftSpec(optimizer="adamw"), config)
    with pytest.raises(SpecError, match=r"scaling\.tensor_parallel_size: what lora trains is not cut"):
        check_cut(ScalingSpec(**TWO), SftSpec(method=Lora()), config)


def test_other_stages_do_not_share() -> None:
    with pytest.raises(SpecError, match=r"scaling\.tensor_parallel_size: reward does not share layers"):
        plan_batches(RewardSpec(), ScalingSpec(**TWO), STEPS)


def test_a_worker_is_sized_as_a_model_with_its_part_of_the_heads() -> None:
    """Llama's heads have a width of their own, so that one with half of them and of the MLP can be made."""
    sizes = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
    half = sizes | {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    spec, length = pretrain(STEPS), 64
    whole, smaller = (
        configuration("llama-1m", given, vocab_size=VOCAB, sequence_length=length, eos_token_id=EOS)
        for given in (sizes, half)
    )
    found, expected = trace(whole, spec, length, tensor_parallel_size=2), trace(smaller, spec, length)
    assert found.parameters == trace(whole, spec, length).parameters > found.trained_parameters
    assert replace(found, parameters=0) == replace(expected, parameters=0)


@pytest.mark.parametrize("name", ["llama-zero1", "gpt_neox-zero1"])
def test_a_worker_is_sized_with_the_weights_that_it_had(runs: Path, name: str) -> None:
    spec = pretrain(STEPS, **MODELS[name.partition("-")[0]])
    config = configuration(spec.model, spec.model_overrides, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=EOS)
    found = trace(config, spec, LENGTH, tensor_parallel_size=2)
    assert {int(path.read_text()) for path in (runs / name).glob("parameters-*")} == {found.trained_parameters}


def test_a_plan_divides_what_is_cut_and_advises_stages_that_go_with_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    step = Step("pretrain", pretrain(STEPS, **MODELS["llama"]), {"tokens": make_tokens(store)}, "")
    shared, plain = (
        predict(step, store, ScalingSpec(num_workers=workers, tensor_parallel_size=size), named("a10"))
        for workers, size in ((4, 2), (2, 1))
    )
    assert shared and plain and shared.recommended
    assert shared.num_workers == 4 and shared.recommended.zero_stage == 1
    assert (shared.parameters, shared.trained_parameters) == (plain.parameters, plain.trained_parameters)
    assert shared.flops_per_token == plain.flops_per_token
    for figure in ("weights", "gradients", "optimizer", "activations"):
        assert getattr(shared.memory, figure) < getattr(plain.memory, figure), figure
