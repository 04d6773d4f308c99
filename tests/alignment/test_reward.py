"""The reward model over positions that end: it is trained, judged and asked on what fits, and on the same pairs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from cluster.core.build import build
from cluster.core.encoding import encode
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import PreferencesSpec, PretrainedSpec, RewardSpec, ScalingSpec
from pipelines.stages.alignment import histograms
from pipelines.stages.alignment.preferences import read_rankings
from pipelines.stages.alignment.ranking import scores
from pipelines.stages.alignment.reward import RewardModel, dialogues
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.tuning.templates import prepare
from tests.alignment.tiny_chat import write_conversations, write_model

pytestmark = pytest.mark.heavy

POSITIONS = 48
PAIRS, LISTS, TIES = 60, 12, 9


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A GPT-2 of 48 positions, and pairs of which every third is longer than that; lists, of which every third has one
    answer that is longer; and ties."""
    folder = tmp_path_factory.mktemp("gpt2")
    write_conversations(folder / "functions.jsonl", 60)
    write_model(folder / "model", folder / "functions.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    prepare(tokenizer, "completion")
    tokenizer.save_pretrained(folder / "model")
    config = GPT2Config(vocab_size=300, n_positions=POSITIONS, n_embd=32, n_layer=1, n_head=2, bos_token_id=0)
    config.eos_token_id = 0
    torch.manual_seed(0)
    (folder / "model" / "model.safetensors").unlink()
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    records = [
        {
            "prompt": f"How many is {number}?",
            "chosen": f"It is {number}." + " So it is." * (20 if number % 3 == 0 else 0),
            "rejected": f"No {number}.",
        }
        | ({"margin": 0.5} if number % 2 else {})
        for number in range(PAIRS)
    ]
    records += [
        {
            "prompt": f"Which of {number}?",
            "output": ["All of it.", "Some." + " Some more." * (20 if number % 3 == 0 else 0), "None.", "What?"],
        }
        for number in range(LISTS)
    ]
    records += [
        {"prompt": f"Is it {number}?", "chosen": "Yes.", "rejected": "Indeed.", "chosen_score": 1, "rejected_score": 1}
        for number in range(TIES)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    store = Store(folder / "artifacts")
    pairs = PreferencesSpec(source="file", path=str(folder / "pairs.jsonl"), heldout_fraction=0.4)
    return {
        "model": build(PretrainedSpec(source=str(folder / "model")), {}, store=store, name="gpt2"),
        "preferences": build(pairs, {}, store=store, name="gpt2"),
    }


@pytest.fixture(scope="module")
def reward(inputs: dict[str, Artifact], ray_cluster: None) -> Artifact:
    """`sequence_length` says 512, and the model has 48 positions."""
    spec = RewardSpec(epochs=0.5, global_batch_size=8, warmup_steps=1, learning_rate=1e-3)
    return build(spec, inputs, store=inputs["model"].store, scaling=ScalingSpec(num_workers=1), name="gpt2")


def test_pairs_beyond_the_positions_are_left_out_and_counted(reward: Artifact, inputs: dict[str, Artifact]) -> None:
    """And lists are shortened; ties are learned, and not judged by."""
    tokenizer = AutoTokenizer.from_pretrained(reward.local())
    for split in ("train", "heldout"):
        rows = read_rankings(inputs["preferences"].local(), split)
        fits = [[len(encode(tokenizer, one).tokens) <= POSITIONS for one in dialogues(row)] for row in rows]
        kept = [row for row, fit in zip(rows, fits, strict=True) if "ranked" in row or all(fit)]
        ties, lists = sum("tie" in row for row in kept), sum("ranked" in row for row in kept)
        long = len(rows) - len(kept)
        assert min(long, ties, lists) > 0
        if split == "train":
            told = {name: reward.metrics[name] for name in ("too_long", "pairs", "lists", "ties", "shortened")}
            shortened = sum("ranked" in row and not all(fit) for row, fit in zip(rows, fits, strict=True))
            pairs = len(kept) - lists
            assert told == {"too_long": long, "pairs": pairs, "lists": lists, "ties": ties, "shortened": shortened}
        else:
            assert reward.metrics["heldout_pairs"] == len(kept) - ties


def test_the_accuracies_are_those_of_the_same_pairs(reward: Artifact) -> None:
    """All are of one kind. It has hardly learned: what it says with little confidence is true half of the time."""
    assert 0 <= reward.metrics["heldout_calibration_error"] < 0.5
    assert abs(reward.metrics["heldout_margin"]) < 1
    assert reward.metrics["heldout_accuracy_by_kind"] == {"file": round(reward.metrics["heldout_accuracy"], 4)}


def test_how_scores_are_spread_is_left_beside_the_model(reward: Artifact) -> None:
    text = reward.location.read_bytes(histograms.HISTOGRAMS_FILE).decode()
    parts = re.split(r"^(\D.*) \(mean (-?[\d.]+), deviation [\d.]+\)\n", text, flags=re.MULTILINE)[1:]
    counts = {
        name: sum(int(line.split()[-1]) for line in bars.splitlines())
        for name, bars in zip(parts[::3], parts[2::3], strict=True)
    }
    best, others, margins = counts.values()
    assert best == reward.metrics["heldout_pairs"] and others >= best and margins >= others


def test_plain_transformers_reads_the_same_scores(reward: Artifact, inputs: dict[str, Artifact]) -> None:
    """In a padded batch, although the template ends with the end of text, which many tokenizers pad with."""
    rows = read_rankings(inputs["preferences"].local(), "heldout")
    tokenizer = AutoTokenizer.from_pretrained(reward.local())
    whole = [messages for row in rows for messages in dialogues(row)]
    fitting = [messages for messages in whole if len(encode(tokenizer, messages).tokens) <= POSITIONS]
    texts = tokenizer.apply_chat_template(fitting, tokenize=False)
    assert all(text.endswith(tokenizer.eos_token) for text in texts) and len(set(map(len, texts))) > 1
    model = AutoModelForSequenceClassification.from_pretrained(reward.local()).eval()
    batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        found = model(**batch).logits.squeeze(-1).tolist()
    assert found == pytest.approx(RewardModel(reward.local()).score(fitting), abs=1e-5)


def test_an_answer_that_was_cut_off_is_not_shown_as_ended(reward: Artifact) -> None:
    """Its score is that of the tokens up to where it stops, by the model itself."""
    model = RewardModel(reward.local())
    request = [{"role": "user", "content": "How many is 7?"}]
    whole, cut = (Sample(request, "It is", finished) for finished in (True, False))
    tokens = encode(model.tokenizer, [*request, {"role": "assistant", "content": "It is"}]).tokens
    assert tokens[-1] == model.tokenizer.eos_token_id
    rows = [torch.tensor([tokens]), torch.tensor([tokens[:-1]])]
    with torch.no_grad():
        expected = [scores(model.model, row, torch.tensor([row.size(1)])).item() for row in rows]
    assert expected[0] != expected[1]
    assert model.score_samples([whole, cut]) == pytest.approx(expected, abs=1e-6)


def test_of_a_longer_conversation_the_end_is_scored(reward: Artifact, tmp_path: Path) -> None:
    model = RewardModel(reward.local())
    start = [{"role": "user", "content": "How many is 7? " * 30}]
    answers = [[*start, {"role": "assistant", "content": f"It is {number}."}] for number in range(3)]
    found = model.score(answers)
    assert len(set(found)) == 3
    longer = [[{"role": "user", "content": "Well. " + start[0]["content"]}, answer[-1]] for answer in answers]
    assert model.score(longer) == pytest.approx(found, abs=1e-6)
