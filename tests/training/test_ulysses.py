"""Workers that share every sequence: what undivided runs find, but for the order of additions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
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
from pipelines.specs import PretrainedSpec, PretrainSpec, RewardSpec, ScalingSpec
from pipelines.stages.training.batches import BatchPlan, plan_batches
from pipelines.stages.training.models.models import configuration
from pipelines.stages.training.sizing.footprint import trace
from tests.made import make
from tests.training.chunks import OVERRIDES
from tests.training.tiny import BATCH, EOS, LENGTH, VOCAB, make_tokens, pretrain, run_rounds, tokenizer_json

pytestmark = pytest.mark.heavy

STEPS = 5
CHUNKS = Path(__file__).with_name("chunks.py")

SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
LLAMA = SMALL | {"intermediate_size": 64}
GLM = LLAMA | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": LENGTH}
FIVE = LLAMA | {"hidden_size": 40, "num_attention_heads": 5}
LONG_ROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 16,
    }
}
TWO = {"num_workers": 2, "sequence_parallel_size": 2}
SECOND = 22  # where the second document begins, in the second half of a sequence
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model": "llama-1m", "model_overrides": LLAMA | {"num_key_value_heads": 2}},
    "gpt2": {"model": "gpt2-1m", "model_overrides": SMALL},
    "gpt_neox": {"model": "pythia-1m", "model_overrides": LLAMA},
    "stablelm": {"model": {"model_type": "stablelm", **LLAMA, "num_key_value_heads": 4}, "model_overrides": {}},
    "glm": {"model": {"model_type": "glm", **GLM}, "model_overrides": {}},
    "glm4": {"model": {"model_type": "glm4", **GLM}, "model_overrides": {}},
}


def round_(workers: int, size: int, zero_stage: int, **more: Any) -> dict[str, Any]:
    end = {"stop_at": more.pop("stop_at")} if "stop_at" in more else {}
    scaling = {"num_workers": workers, "sequence_parallel_size": size, "zero_stage": zero_stage}
    return {"scaling": scaling | more, **end}


def case(family: str, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    return {"spec": {"steps": STEPS, "learning_rate": 3e-3, **MODELS[family]}, "rounds": rounds}


SHARED: dict[str, list[dict[str, Any]]] = {
    **{f"{family}-2": [round_(2, 2, 2, micro_batch_size=4)] for family in MODELS},
    "llama-4-of-4": [round_(4, 4, 1, statistics_every=STEPS)],  # two key/value heads for four workers
    "llama-2-of-4": [round_(4, 2, 3, micro_batch_size=1)],
    "gpt2-4-of-4": [round_(4, 4, 0, activation_checkpointing=True)],
    "llama-elastic": [
        round_(1, 1, 0, stop_at=2),
        round_(2, 2, 1, stop_at=3),
        round_(4, 2, 2, stop_at=4),
        round_(1, 1, 0),
    ],
}
CASES: dict[str, Any] = {
    **{family: case(family, [round_(1, 1, 0, statistics_every=STEPS)]) for family in MODELS},
    **{name: case(name.partition("-")[0], rounds) for name, rounds in SHARED.items()},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    return run_rounds(tmp_path_factory.mktemp("ulysses"), CASES)


def figures(runs: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((runs / name / "figures.json").read_text()))


@pytest.mark.parametrize("name", SHARED)
def test_losses_are_those_of_whole_sequences(runs: Path, name: str) -> None:
    whole = name.partition("-")[0]
    lines, reference = (read(Location(runs / case)) for case in (name, whole))
    for figure in (LOSS, "grad_norm", TOKENS):
        assert [line[figure] for line in lines] == pytest.approx([line[figure] for line in reference], rel=1e-5), figure
    assert lines[-1][TOKENS] == STEPS * BATCH * LENGTH
    found, expected = (figures(runs, case)["validation_loss"] for case in (name, whole))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", SHARED)
def test_weights_are_those_of_whole_sequences(runs: Path, name: str) -> None:
    """All but the biases of keys, which have no gradient but what rounding leaves: softmax does not see them."""
    found, expected = (flat(load_file(runs / case / "model.safetensors")) for case in (name, name.partition("-")[0]))
    assert torch.linalg.vector_norm(found - expected) < 1e-5 * torch.linalg.vector_norm(expected)


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """All weights as one vector, but for the biases that keys have a part in."""
    keys = ("c_attn.bias", "query_key_value.bias", "k_proj.bias")
    return torch.cat([weights[name].flatten() for name in sorted(weights) if not name.endswith(keys)])


def test_statistics_are_of_the_whole_model(runs: Path) -> None:
    """Each position's activations count once."""
    found, expected = (
        json.loads((runs / name / "statistics.jsonl").read_text().splitlines()[-1])["blocks"]
        for name in ("llama-4-of-4", "llama")
    )
    assert found.keys() == expected.keys()
    for block, figures_ in expected.items():
        assert found[block] == pytest.approx(figures_, rel=1e-4, abs=1e-6), block


def test_the_artifact_does_not_know(runs: Path) -> None:
    """A model of shared sequences is saved as any other."""
    for name in ("llama-2", "gpt2-2"):
        assert (runs / name / "config.json").read_bytes() == (runs / name[:-2] / "config.json").read_bytes()


def reads(runs: Path, name: str, number: int) -> dict[int, list[Any]]:
    """What each rank of a round read: a step and its samples a line."""
    rows = {}
    for path in sorted((runs / name).glob(f"reads-{number}-*.jsonl")):
        rows[int(path.stem.rpartition("-")[2])] = [json.loads(line) for line in path.read_text().splitlines()]
    return rows


def test_ranks_that_share_sequences_read_the_same(runs: Path) -> None:
    one = reads(runs, "llama", 0)[0]
    four = reads(runs, "llama-2-of-4", 0)
    assert four[0] == four[1] and four[2] == four[3]
    assert [[step, [*first, *second]] for (step, first), (_, second) in zip(four[0], four[2], strict=True)] == one


def test_a_run_goes_on_with_other_sharing(runs: Path) -> None:
    """From one worker to two that share, to twice two, and back to one: each sample once, in the same order."""
    steps = []
    for number in range(4):
        ranks = reads(runs, "llama-elastic", number)
        leaders = [ranks[0], ranks[2]] if len(ranks) == 4 else [ranks[0]]
        steps += [[step, [one for rank in leaders for one in rank[at][1]]] for at, (step, _) in enumerate(ranks[0])]
    assert steps == reads(runs, "llama", 0)[0]


@pytest.fixture(scope="module", params=[2, 4])
def chunks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found of two batches: a document across the middle, another behind it; and one document alone.

    `other` differs from `packed` in the first document only.
    """
    root = tmp_path_factory.mktemp("chunks")
    generator = torch.Generator().manual_seed(1)
    packed = torch.randint(1, VOCAB, (2, LENGTH + 1), generator=generator)
    alone = packed.clone()
    packed[:, SECOND] = EOS
    other = packed.clone()
    other[:, :SECOND] = torch.randint(1, VOCAB, (2, SECOND), generator=generator)
    torch.save({"packed": packed, "other": other, "alone": alone}, root / "batches.pt")
    command = [sys.executable, str(CHUNKS), str(root), str(request.param)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(root / f"{rank}.pt") for rank in range(request.param)]
    return [one | {"labels": {"packed": packed[:, 1:], "alone": alone[:, 1:]}} for one in found]


@pytest.mark.parametrize("name", ["packed", "alone"])
def test_a_rank_tells_the_logits_and_the_loss_of_its_chunk(chunks: list[dict[str, Any]], name: str) -> None:
    """Also of the last label of a chunk, which is the first input of the next."""
    length = LENGTH // len(chunks)
    for rank, found in enumerate(chunks):
        own = slice(rank * length, (rank + 1) * length)
        whole, (logits, loss) = found["whole"][name][0][:, own], found["chunk"][name]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-6)
        told = whole.log_softmax(-1).gather(2, found["labels"][name][:, own].unsqueeze(2))
        assert float(loss) == pytest.approx(-float(told.sum()), rel=1e-5)


def test_documents_do_not_see_each_other_across_chunks(chunks: list[dict[str, Any]]) -> None:
    """The first document, on two chunks, leaves no trace on the second, and does on its own."""
    packed, other = (torch.cat([found["chunk"][name][0] for found in chunks], dim=1) for name in ("packed", "other"))
    assert torch.equal(packed[:, SECOND:], other[:, SECOND:])
    assert not torch.isclose(packed[:, LENGTH // 2 : SECOND], other[:, LENGTH // 2 : SECOND]).any()


def test_a_shared_pass_keeps_what_sizing_says(chunks: list[dict[str, Any]]) -> None:
    """But for the attention's result, which is kept before and after it is exchanged: a twentieth of it all here."""
    workers, number = len(chunks), 2
    config = configuration("llama-1m", OVERRIDES, vocab_size=VOCAB, sequence_length=LENGTH, eos_token_id=EOS)
    footprint = trace(config, pretrain(STEPS), LENGTH)
    logits_and_tokens, mask = number * LENGTH * (4 * VOCAB + 8), number * LENGTH**2
    whole = footprint.activations_bytes(number) - logits_and_tokens - mask
    shared = footprint.shared(workers).activations_bytes(number) - logits_and_tokens // workers - mask
    for found in chunks:
        assert found["whole_bytes"] == pytest.approx(whole, rel=0.005)
        assert found["chunk_bytes"] == pytest.approx(shared, rel=0.06)


def plan_of(**scaling: Any) -> BatchPlan:
    return plan_batches(pretrain(STEPS), ScalingSpec(**scaling), STEPS)


def test_micro_batches_are_of_a_group() -> None:
    plan = plan_of(num_workers=8, sequence_parallel_size=4, micro_batch_size=2)
    assert (plan.num_groups, plan.micro_batch, plan.accumulation) == (2, 2, 2)
    assert [plan.positions(1, rank) for rank in (0, 3, 4, 7)] == [(8, 12), (8, 12), (12, 16), (12, 16)]


@pytest.mark.parametrize(
    ("scaling", "changes", "words"),
    [
        ({"num_workers": 6, "sequence_parallel_size": 2}, {}, "do not divide among 3 groups of 2 workers"),
        ({"num_workers": 8, "sequence_parallel_size": 8}, {}, "8 does not divide the model's 4 attention heads"),
        ({"num_workers": 5, "sequence_parallel_size": 5}, {"model_overrides": FIVE}, "5 does not divide the 32 tokens"),
        ({}, {"model": "bloom-1m", "model_overrides": {}}, "'bloom' does not share sequences"),
        ({}, {"model": "bert-1m", "model_overrides": {}, "objective": "masked"}, "only causal sequences"),
        ({}, {"model_overrides": LLAMA | LONG_ROPE}, "`longrope` angles"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    tmp_path: Path, scaling: dict[str, int], changes: dict[str, Any], words: str
) -> None:
    """By the stage and by `ctl plan`, before a cluster is asked for."""
    store, spec = Store(tmp_path), pretrain(STEPS, **({"model_overrides": LLAMA} | changes))
    inputs = {"tokens": make_tokens(store, markers=True)}
    with pytest.raises(SpecError, match=words):
        build(spec, inputs, store=store, scaling=ScalingSpec(**(TWO | scaling)), name="tiny")
    with pytest.raises(SpecError, match=words):
        predict(Step("pretrain", spec, inputs, ""), store, ScalingSpec(**(TWO | scaling)), named("a10"))


def test_a_model_to_go_on_from_is_checked_too(tmp_path: Path) -> None:
    store = Store(tmp_path)
    config = {"model_type": "llama", **LLAMA, "max_position_embeddings": LENGTH, "vocab_size": 2 * VOCAB}
    files = {"config.json": json.dumps(config).encode(), "tokenizer.json": tokenizer_json()}
    inputs = {"tokens": make_tokens(store, markers=True), "model": make(store, PretrainedSpec(), {}, files, "tiny")}
    spec = PretrainSpec(global_batch_size=BATCH)
    with pytest.raises(SpecError, match="8 does not divide the model's 4 attention heads"):
        build(spec, inputs, store=store, scaling=ScalingSpec(num_workers=8, sequence_parallel_size=8), name="tiny")


def test_it_divides_the_workers() -> None:
    with pytest.raises(SpecError, match=r"scaling\.sequence_parallel_size: 3 does not divide the 4 workers"):
        convert({"num_workers": 4, "sequence_parallel_size": 3}, ScalingSpec, "scaling")


def test_other_stages_do_not_share() -> None:
    with pytest.raises(SpecError, match=r"scaling\.sequence_parallel_size: reward does not share sequences"):
        plan_batches(RewardSpec(), ScalingSpec(**TWO), STEPS)


def test_sizing_divides_all_activations_but_the_mask(tmp_path: Path) -> None:
    store = Store(tmp_path)
    step = Step("pretrain", pretrain(STEPS, model_overrides=LLAMA), {"tokens": make_tokens(store)}, "")
    found = [
        predict(step, store, ScalingSpec(num_workers=4, micro_batch_size=2, sequence_parallel_size=size), named("a10"))
        for size in (1, 2)
    ]
    whole, shared = (one.memory.activations for one in found if one)
    # Of each of two sequences, the mask in bool, and in fp32 for each of the two layers.
    mask = 2 * (1 + 2 * 4) * LENGTH**2
    assert shared - mask == pytest.approx((whole - mask) / 2, abs=2)
    assert len({one.tokens_per_second() for one in found if one}) == 1
