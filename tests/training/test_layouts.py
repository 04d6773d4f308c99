"""The same run on other workers, batch splits and ZeRO stages: equal but for the order of additions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from cluster.core.metrics import LOSS, read
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.stages.training.models.models import load_model
from tests.training.tiny import LENGTH, SMALL, make_tokens

pytestmark = pytest.mark.heavy

STEPS = 8
GROUP = Path(__file__).with_name("group.py")


def case(optimizer: str, zero_stage: int, **more: Any) -> dict[str, Any]:
    scaling = {"zero_stage": zero_stage} | more.pop("scaling", {})
    return {"spec": {"steps": STEPS, "optimizer": optimizer, **more}, "scaling": scaling}


GPT2 = {"model": "gpt2-1m", "model_overrides": SMALL}
TWO_RANKS = {
    **{f"{o}-zero{stage}": case(o, stage) for o in ("adamw", "muon") for stage in range(4)},
    **{f"gpt2-muon-zero{stage}": case("muon", stage, **GPT2) for stage in (0, 2)},
    **{f"muon-zero{stage}-micro1": case("muon", stage, scaling={"micro_batch_size": 1}) for stage in (0, 3)},
}
GLM = {"model": "glm-1m", "model_overrides": SMALL, "objective": {"infilling_short": 2, "infilling_document": 1}}
BERT = {"model": "bert-1m", "model_overrides": SMALL | {"intermediate_size": 64}, "objective": "masked"}
TWO_RANKS |= {f"glm-zero{stage}": case("adamw", stage, **GLM) for stage in (0, 2, 3)}
TWO_RANKS["glm-micro1"] = case("adamw", 2, scaling={"micro_batch_size": 1}, **GLM)
TWO_RANKS["glm-sentences"] = case("adamw", 1, **(GLM | {"objective": "infilling_sentence", "z_loss": 1e-4}))
TWO_RANKS["bert"] = case("adamw", 1, **BERT)
TWO_RANKS["bert-zero3"] = case("adamw", 3, scaling={"micro_batch_size": 2}, **BERT)
LONG = {"steps": 180, "learning_rate": 3e-3, "schedule": "constant"}
TWO_RANKS["bert-long"] = case("muon", 1, **BERT, **LONG)
TWO_RANKS["muon-bf16"] = case("muon", 1, precision="bf16")
ONE_RANK = {"muon-one": case("muon", 1), "glm-one": case("adamw", 1, **GLM), "bert-one": case("adamw", 1, **BERT)}

UNEVEN = {"model_overrides": SMALL | {"intermediate_size": 57}}  # shards begin in the middle of rows
OVERFLOWING = {"precision": "fp16", "z_loss": 20.0}  # the first steps' gradients are above 65504
# 2, 2, 4, 6 and four times 8 sequences.
GROWING = {"start_batch_size": 2, "batch_size_warmup_steps": 4, "total_tokens": 46 * LENGTH}
MICRO_BATCHES: list[tuple[int, dict[str, int]]] = [(0, {}), (2, {}), (3, {"micro_batch_size": 1})]
NARROW = {"zero_optimization": {"reduce_bucket_size": 1000}}
TWO_RANKS |= {
    **{f"adafactor-zero{stage}": case("adafactor", stage, **UNEVEN) for stage in (0, 2, 3)},
    **{f"adamw8bit-zero{stage}": case("adamw8bit", stage, **UNEVEN) for stage in (0, 2, 3)},
    **{f"fp16-zero{stage}": case("adamw", stage, **OVERFLOWING) for stage in (0, 2, 3)},
    "fp16": case("adamw", 1, precision="fp16"),
    "muon-zero1-offload": case("muon", 1, scaling={"offload_optimizer": "cpu"}),
    "muon-zero3-offload": case("muon", 3, scaling={"offload_optimizer": "cpu", "offload_parameters": "cpu"}),
    "gpt2-muon-zero0-checkpointing": case("muon", 0, scaling={"activation_checkpointing": True}, **GPT2),
    "muon-zero3-checkpointing": case("muon", 3, scaling={"activation_checkpointing": True}),
    "adamw-zero1-compiled": case("adamw", 1, scaling={"compile": True}),
    "muon-zero2-narrow": case("muon", 2, scaling={"deepspeed_overrides": NARROW}),
    **{f"growing-zero{stage}": case("adamw", stage, scaling=split, **GROWING) for stage, split in MICRO_BATCHES},
}
RESUMED = [name for name in TWO_RANKS if name.startswith(("adafactor", "adamw8bit", "fp16-"))]
for name in RESUMED:
    TWO_RANKS[f"{name}-again"] = TWO_RANKS[name] | {"stop_at": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one output folder for each case."""
    root = tmp_path_factory.mktemp("layouts")
    make_tokens(Store(root / "store"), markers=True)
    for ranks, cases in ((2, TWO_RANKS), (1, ONE_RANK)):
        (root / f"{ranks}.json").write_text(json.dumps(cases))
        command = [sys.executable, str(GROUP), str(root), str(ranks), str(root / f"{ranks}.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=840)
        assert done.returncode == 0, done.stderr[-3000:]
    return root


def trajectory(runs: Path, name: str) -> list[float]:
    """Losses of all steps and, last, the validation loss."""
    losses = [line[LOSS] for line in read(Location(runs / name))]
    assert len(losses) == STEPS
    return [*losses, json.loads((runs / name / "figures.json").read_text())["validation_loss"]]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        *((f"adamw-zero{stage}", "adamw-zero0") for stage in (1, 2, 3)),
        *((f"muon-zero{stage}", "muon-zero0") for stage in (1, 2, 3)),
        *((f"muon-zero{stage}-micro1", "muon-zero0") for stage in (0, 3)),
        ("gpt2-muon-zero2", "gpt2-muon-zero0"),
        ("muon-one", "muon-zero1"),
        *((name, "glm-zero0") for name in ("glm-zero2", "glm-zero3", "glm-micro1", "glm-one")),
        *((name, "bert") for name in ("bert-zero3", "bert-one")),
        *((f"adafactor-zero{stage}", "adafactor-zero0") for stage in (2, 3)),
        *((f"fp16-zero{stage}", "fp16-zero0") for stage in (2, 3)),
        *((f"muon-zero{stage}-offload", "muon-zero0") for stage in (1, 3)),
        ("muon-zero2-narrow", "muon-zero0"),
        ("adamw-zero1-compiled", "adamw-zero0"),
        *((f"growing-zero{stage}", "growing-zero0") for stage in (2, 3)),
    ],
)
def test_layouts_agree(runs: Path, name: str, reference: str) -> None:
    assert trajectory(runs, name) == pytest.approx(trajectory(runs, reference), rel=1e-5)


def test_bf16_stays_close_to_fp32(runs: Path) -> None:
    low, full = trajectory(runs, "muon-bf16"), trajectory(runs, "muon-zero1")
    assert low != full
    assert low == pytest.approx(full, rel=2e-2)


@pytest.mark.parametrize("name", ["gpt2-muon-zero0", "muon-zero3"])
def test_activation_checkpointing_changes_no_bit(runs: Path, name: str) -> None:
    assert trajectory(runs, f"{name}-checkpointing") == trajectory(runs, name)


def test_8_bit_state_depends_on_the_layout_a_little(runs: Path) -> None:
    reference = trajectory(runs, "adamw8bit-zero0")
    for stage in (2, 3):
        assert trajectory(runs, f"adamw8bit-zero{stage}") == pytest.approx(reference, rel=1e-3)


def test_fp16_stays_close_to_fp32(runs: Path) -> None:
    low, full = trajectory(runs, "fp16"), trajectory(runs, "adamw-zero1")
    assert low != full
    assert low == pytest.approx(full, rel=2e-3)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_gradient_beyond_fp16_skips_the_step_and_lowers_the_scale(runs: Path, stage: int) -> None:
    skipped = 0
    for line in read(Location(runs / f"fp16-zero{stage}")):
        assert line["overflowed_steps"] == skipped + (line["grad_norm"] is None)
        skipped = line["overflowed_steps"]
        assert line["loss_scale"] == 2.0 ** (16 - skipped)
    assert 0 < skipped < STEPS


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_has_the_same_bits(runs: Path, name: str) -> None:
    first, again = (runs / folder for folder in (name, f"{name}-again"))
    assert (first / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert trajectory(runs, f"{name}-again") == trajectory(runs, name)


def test_it_learns(runs: Path) -> None:
    for name in ("adamw-zero1", "muon-zero1", "adamw8bit-zero2"):
        losses = trajectory(runs, name)
        assert losses[-1] < losses[0] - 0.1


def test_a_small_bert_learns_what_is_masked(runs: Path) -> None:
    losses = [line[LOSS] for line in read(Location(runs / "bert-long"))]
    assert len(losses) == LONG["steps"]
    assert sum(losses[-5:]) < sum(losses[:5]) - 5 * 0.7
    model = AutoModelForMaskedLM.from_pretrained(runs / "bert-long")
    assert model.config.model_type == "bert"
    saved = load_file(runs / "bert-long" / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in saved.items())
    assert torch.equal(model.cls.predictions.decoder.weight, model.bert.embeddings.word_embeddings.weight)


def test_a_glm_is_saved_whole(runs: Path) -> None:
    whole, reference = (load_model(runs / name) for name in ("glm-zero3", "glm-zero0"))
    assert type(whole).__name__ == "BlankGlm" and whole.config.max_position_embeddings == LENGTH
    for name, weight in reference.state_dict().items():
        assert (whole.state_dict()[name] - weight).abs().max() < 1e-4, name


def test_of_a_mixture_of_objectives_each_is_validated(runs: Path) -> None:
    figures = json.loads((runs / "glm-zero2" / "figures.json").read_text())
    short, document = (figures[f"validation_loss_infilling_{kind}"] for kind in ("short", "document"))
    assert figures["validation_loss"] == pytest.approx((2 * short + document) / 3, rel=1e-9)
    assert short != document
    line = read(Location(runs / "glm-sentences"))[-1]
    assert 0 < line["cross_entropy"] < line[LOSS]


def test_weights_of_zero_3_are_whole(runs: Path) -> None:
    whole, reference = (load_file(runs / name / "model.safetensors") for name in ("muon-zero3", "muon-zero0"))
    assert {k: v.shape for k, v in whole.items()} == {k: v.shape for k, v in reference.items()}
    for name in whole:
        assert (whole[name] - reference[name]).abs().max() < 1e-4, name
