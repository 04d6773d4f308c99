"""What is drawn for a sample depends on the seed and on its position in the run, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedConfig

from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PretrainSpec, ScalingSpec
from pipelines.stages.tokens.stream import open_stores, open_stream
from pipelines.stages.training.batches import plan_batches
from pipelines.stages.training.models.models import build_model, configuration
from pipelines.stages.training.objectives.infilling import BlankInfilling, infill
from pipelines.stages.training.objectives.masked import MaskedLM
from pipelines.stages.training.objectives.objectives import objective_for
from pipelines.stages.training.samples import make_sampler
from pipelines.stages.training.sources import TokenBatches
from tests.training.run_once import SCALING
from tests.training.tiny import EOS, LENGTH, MARKERS, SMALL, VOCAB, make_tokens, pretrain

MASK, SENTENCE_MASK, DOCUMENT_MASK, START, END = range(VOCAB, VOCAB + len(MARKERS))
MIXED: dict[str, Any] = {"infilling_short": 2, "infilling_sentence": 1, "infilling_document": 1}


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tokens(Store(tmp_path_factory.mktemp("store")), markers=True)


def source(tokens: Artifact, spec: PretrainSpec, rank: int = 0, **scaling: Any) -> TokenBatches:
    plan = plan_batches(spec, ScalingSpec(**scaling), 200)
    stream = open_stream(tokens, spec.seed, plan.num_positions)
    return TokenBatches(stream, open_stores(tokens, "heldout"), plan, spec, rank, make_sampler(spec, tokens, stream))


def step_of(tokens: Artifact, spec: PretrainSpec, step: int, **scaling: Any) -> dict[str, Tensor]:
    """What a step trains on, put together from ranks that know nothing but the artifact and the step."""
    ranks = range(scaling["num_workers"])
    found: list[Any] = [m for rank in ranks for m in source(tokens, spec, rank, **scaling).micro_batches(step)]
    return {name: torch.cat([batch[name] for batch in found]) for name in found[0]}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    step=st.integers(0, 150),
    layout=st.sampled_from([(1, 1), (1, 4), (2, None), (2, 2), (4, 1), (8, None)]),
    objective=st.sampled_from(["masked", "infilling_document", MIXED]),
    seed=st.integers(0, 3),
)
def test_samples_do_not_depend_on_the_split(
    marked: Artifact, step: int, layout: tuple[int, int | None], objective: Any, seed: int
) -> None:
    spec = PretrainSpec(global_batch_size=8, objective=objective, seed=seed)
    whole = step_of(marked, spec, step, num_workers=1)
    split = step_of(marked, spec, step, num_workers=layout[0], micro_batch_size=layout[1])
    assert all(torch.equal(whole[name], split[name]) for name in whole)
    assert {tensor.shape for tensor in whole.values()} == {(8, LENGTH)}


def test_epochs_seeds_and_positions_draw_anew(marked: Artifact) -> None:
    spec = PretrainSpec(objective="masked")
    sampler = source(marked, spec, num_workers=1).sampler
    assert sampler
    sequence = np.arange(1, LENGTH + 2)
    labels = [sampler.draw(sequence, key)["labels"].tolist() for key in ([0, 1], [0, 1], [0, 2], [1, 1])]
    assert labels[0] == labels[1]
    assert labels[0] != labels[2] and labels[0] != labels[3] and labels[2] != labels[3]


def test_the_order_in_which_objectives_are_written_does_not_matter(marked: Artifact) -> None:
    backwards = dict(reversed(MIXED.items()))
    steps = [step_of(marked, PretrainSpec(objective=given), 3, num_workers=1) for given in (MIXED, backwards)]
    assert all(torch.equal(steps[0][name], steps[1][name]) for name in steps[0])


def test_an_objective_without_weight_is_none() -> None:
    spec = PretrainSpec(objective={"infilling_short": 3, "infilling_document": 0, "infilling_sentence": 1})
    assert spec.shares == {"infilling_sentence": 0.25, "infilling_short": 0.75}
    assert PretrainSpec().shares == {"causal": 1.0}


def test_a_mixture_holds_its_shares(marked: Artifact) -> None:
    spec = PretrainSpec(global_batch_size=400, objective=MIXED)
    inputs = step_of(marked, spec, 0, num_workers=1)["inputs"]
    kinds = torch.stack([(inputs == mask).any(1) for mask in (MASK, SENTENCE_MASK, DOCUMENT_MASK)])
    assert (kinds.sum(0) == 1).all()  # one kind a sample
    assert (kinds.float().mean(1) - torch.tensor([0.5, 0.25, 0.25])).abs().max() < 0.07


def test_the_masking_of_batches_is_the_papers(marked: Artifact) -> None:
    """15 % asked for; of these 80 % masked, 10 % random, 10 % kept: within 4 standard deviations."""
    spec = PretrainSpec(global_batch_size=400, objective="masked")
    batches = source(marked, spec, num_workers=1)
    asked_inputs, truth, words = [], [], 0
    for step in range(5):
        (batch,) = batches.micro_batches(step)
        tokens = torch.from_numpy(batches.stream.read(*batches.plan.positions(step, 0)))[:, :-1]
        asked = batch["labels"] >= 0
        words += int((tokens != EOS).sum())
        assert torch.equal(batch["inputs"][~asked], tokens[~asked])
        asked_inputs.append(batch["inputs"][asked])
        truth.append(tokens[asked])
    inputs, expected = torch.cat(asked_inputs), torch.cat(truth)
    assert (expected != EOS).all() and not set(inputs.tolist()) & {EOS, START, END}
    assert len(inputs) / words == pytest.approx(0.15, abs=0.01)  # rounded in each sequence of 32
    error = 4 / len(inputs) ** 0.5
    same = 0.1 * (1 + 1 / (VOCAB - 1))  # a random token may be the right one
    assert float((inputs == MASK).double().mean()) == pytest.approx(0.8, abs=0.4 * error)
    assert float((inputs == expected).double().mean()) == pytest.approx(same, abs=0.3 * error)


@pytest.mark.parametrize("objective", ["masked", "infilling_short", "infilling_sentence"])
def test_more_is_asked_for_where_the_spec_says_so(marked: Artifact, objective: str) -> None:
    def asked(fraction: float) -> float:
        spec = PretrainSpec(global_batch_size=200, objective=objective, masked_fraction=fraction)  # type: ignore[arg-type]
        batch = step_of(marked, spec, 0, num_workers=1)
        return float(((batch["labels"] >= 0) & (batch["labels"] != END)).sum(1).double().mean()) / LENGTH

    published, more = asked(0.15), asked(0.4)
    assert more > 1.1 * published  # of these short texts a sentence is a large part, and blanks take up room
    if objective == "masked":
        assert (published, more) == pytest.approx((0.15, 0.4), abs=0.03)


def test_labels_of_a_global_batch_are_what_its_losses_add_up_over(marked: Artifact) -> None:
    spec = PretrainSpec(global_batch_size=8, objective=MIXED)
    count_labels = objective_for(spec.shares).count_labels
    whole = count_labels(step_of(marked, spec, 5, num_workers=1))
    parts = [source(marked, spec, rank, num_workers=4).micro_batches(5) for rank in range(4)]
    assert sum(count_labels(batch) for part in parts for batch in part) == whole > 0


def test_heldout_samples_are_the_same_for_every_seed(marked: Artifact) -> None:
    ones = [source(marked, PretrainSpec(objective=MIXED, seed=seed), num_workers=1) for seed in (0, 1)]
    for name in MIXED:
        first, second = (one.heldout_batch(one.heldout["tokens"], [2, 5], name) for one in ones)
        assert all(torch.equal(first[field], second[field]) for field in first)


class Recorder(torch.nn.Module):
    """Keeps what an objective hands to its model."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PreTrainedConfig()
        self.config._attn_implementation = "sdpa"

    def forward(self, inputs: Tensor, position_ids: Tensor, attention_mask: Tensor) -> Any:
        self.seen = inputs, position_ids, attention_mask
        return type("Found", (), {"logits": torch.zeros(*inputs.shape, 200)})


def test_the_papers_figure_reaches_the_model() -> None:
    """Figure 2 of Du et al. 2022: x1 ... x6, x3 and x5 x6 masked, the second generated first; twice in one sequence."""
    blanks = infill(np.arange(1, 7), [(2, 3), (4, 6)], [1, 0], 101, 104, 105)
    fields = ("inputs", "labels", "positions", "block_positions")
    batch = {name: torch.from_numpy(getattr(blanks, name)).repeat(2).unsqueeze(0) for name in fields}
    batch["documents"] = torch.arange(2).repeat_interleave(10).unsqueeze(0)
    recorder = Recorder()
    loss = BlankInfilling(recorder, EOS, "fp32")(batch)
    inputs, positions, mask = recorder.seen
    assert inputs[0, :10].tolist() == [1, 2, 101, 4, 101, 104, 5, 6, 104, 3]
    assert (positions[0, 0] + 1).tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 3, 3] * 2  # the paper counts from 1
    assert positions[0, 1].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2] * 2
    figure = [*["xxxxx....."] * 5, "xxxxxx....", "xxxxxxx...", "xxxxxxxx..", "xxxxxxxxx.", "xxxxxxxxxx"]
    rows = ["".join(".x"[int(seen)] for seen in row) for row in mask[0, 0]]
    apart = "." * 10
    assert rows == [row + apart for row in figure] + [apart + row for row in figure]
    assert float(loss) == pytest.approx(2 * 5 * np.log(200))  # x5 x6 E x3 E, and all tokens alike


@pytest.mark.parametrize("kind", ["masked", "infilling"])
def test_documents_in_one_sequence_do_not_see_each_other(marked: Artifact, kind: str) -> None:
    """What is in one document changes no logit of another."""
    name, objective = ("bert-1m", "masked") if kind == "masked" else ("glm-1m", "infilling_short")
    overrides = SMALL | ({"intermediate_size": 64} if kind == "masked" else {})
    config = configuration(name, overrides, vocab_size=VOCAB + len(MARKERS), sequence_length=LENGTH, eos_token_id=EOS)
    model = objective_for([objective])(build_model(config, seed=1), EOS, "fp32").eval()
    assert isinstance(model, MaskedLM if kind == "masked" else BlankInfilling)
    seen: list[Tensor] = []
    model.model.register_forward_hook(lambda module, arguments, output: seen.append(output.logits))
    sampler = source(marked, PretrainSpec(objective=objective), num_workers=1).sampler  # type: ignore[arg-type]
    assert sampler
    sequence = np.concatenate([np.arange(1, 14), [EOS], np.arange(20, 39)])
    batch = {field: torch.from_numpy(array).unsqueeze(0) for field, array in sampler.draw(sequence, [0]).items()}
    end = int((batch["inputs"][0] == EOS).nonzero()[0])
    changed = {field: tensor.clone() for field, tensor in batch.items()}
    changed["inputs"][0, 1:4] = 50
    with torch.no_grad():
        model(batch), model(changed)
    assert torch.equal(seen[0][0, end:], seen[1][0, end:])
    assert not torch.equal(seen[0][0, :end], seen[1][0, :end])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objective": "masked"}, r"'llama' has not been made for masked tokens.*a model of bert"),
        ({"objective": "infilling_short"}, r"'llama' has not been made for blanks.*blank_glm.*objective to causal"),
        ({"model": "bert-1m"}, r"'bert' does not read from left to right.*or set pretrain.objective to masked"),
        ({"model": {"model_type": "roberta"}}, r"'roberta' does not read from left to right"),
        ({"model": "glm-1m"}, r"'blank_glm' does not read.*set pretrain.objective to infilling_short"),
        ({"model": "glm-1m", "objective": MIXED}, r"has no \[MASK\], \[sMASK\], \[gMASK\], <sop>, <eop> among"),
        ({"model": "bert-1m", "objective": "masked"}, r"has no \[MASK\] among its first 64 tokens.*special_tokens"),
    ],
)
def test_what_does_not_fit_is_told_before_a_cluster_is_asked_for(
    changes: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipelines.stages.training.stage.connect", lambda scaling: pytest.fail("a cluster was asked for")
    )
    from tests.training import tiny

    whole = tiny.tokenizer_json
    monkeypatch.setattr(tiny, "MARKERS", ())
    store = Store(tmp_path)
    tokens = make_tokens(store, markers=True)  # a tokenizer without markers
    assert whole() == (tokens.parent("tokenizer").location.read_bytes("tokenizer.json"))
    spec = pretrain(4, **({"model_overrides": {}} | changes))
    with pytest.raises((SpecError, InputError), match=words):
        build(spec, {"tokens": tokens}, store=store, scaling=SCALING, name="x")


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({}, "no weight"),
        ({"infilling_short": 0}, "no weight"),
        ({"infilling_short": -1}, "objective"),
        ({"causal": 1}, "objective"),
        ("mask", "objective"),
    ],
)
def test_objectives_that_there_are_not(objective: Any, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        convert({"objective": objective}, PretrainSpec, "pretrain")
