"""A reward model of SmolLM2-135M-Instruct on HH-RLHF's harmless pairs, ours and TRL's, on the same held-out pairs.

    pip install --no-deps --target TRL trl==1.16.0
    python benchmarks/hh_reward.py HH.jsonl.gz FOLDER --trl TRL [--train 600] [--heldout 400] [--longest 256]

Pairs of which both dialogues are at most `--longest` tokens long, in an order that a seed tells; those of a prompt are
on one side. Both learn one epoch of the same pairs, 16 a step, AdamW, peak 1e-4 (TRL's default) with linear decay after
5 steps, fp32, all weights. Both are scored by transformers on the same ids, one dialogue at a time, so that padding
says nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from cluster.control.screen.view import make_view
from cluster.core.graph import Steps
from cluster.core.storage.store import Store
from cluster.pipeline import Pipeline, run
from pipelines.specs import PreferencesSpec, PretrainedSpec, RewardSpec
from pipelines.stages.alignment.preferences import read_rankings
from pipelines.stages.evaluation.results import wilson

BATCH, RATE, WARMUP, BETA2 = 16, 1e-4, 5, 0.95
TEMPLATE_TOKENS = 40  # what the chat template adds to a dialogue, at most
Pair = tuple[list[int], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trl", required=True)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--heldout", type=int, default=400)
    parser.add_argument("--longest", type=int, default=256)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    store = Store(given.folder / "store")
    base = run(Pipeline(pretrained).graph(store), store, make_view())["pretrained"].local()
    tokenizer = AutoTokenizer.from_pretrained(base)
    chosen = given.folder / "pairs.jsonl"
    _choose(given.pairs, chosen, tokenizer, given.train + given.heldout, given.longest)

    def reward(step: Steps) -> Any:
        share = given.heldout / (given.train + given.heldout)
        pairs = step(PreferencesSpec(source="file", path=str(chosen), heldout_fraction=share))
        spec = RewardSpec(
            sequence_length=given.longest,
            global_batch_size=BATCH,
            learning_rate=RATE,
            beta2=BETA2,
            warmup_steps=WARMUP,
            schedule="linear",
            min_learning_rate_fraction=0.0,
        )
        return step(spec, model=step(PretrainedSpec()), preferences=pairs)

    built = run(Pipeline(reward).graph(store, {"scaling": {"num_workers": 1}}), store, make_view())
    folder = built["preferences"].local()
    heldout = [_pair(row, tokenizer) for row in read_rankings(folder, "heldout")]
    train = read_rankings(folder, "train")
    theirs = _trl(given.trl, base, tokenizer, train, given.longest, given.folder / "trl")
    right = {
        "ours": _right(AutoModelForSequenceClassification.from_pretrained(built["reward"].local()), heldout),
        "TRL": _right(theirs, heldout),
    }
    print(f"{len(train)} pairs learned, {len(heldout)} held out")
    for name, found in right.items():
        low, high = wilson(sum(found), len(found))
        print(f"{name}: {sum(found) / len(found):.4f} ({low:.4f} to {high:.4f})", flush=True)
    only = [
        sum(a and not b for a, b in zip(right[x], right[y], strict=True)) for x, y in (("ours", "TRL"), ("TRL", "ours"))
    ]
    print(f"right of ours alone {only[0]}, of TRL's alone {only[1]}")


def pretrained(step: Steps) -> Any:
    return step(PretrainedSpec())


def _choose(source: Path, target: Path, tokenizer: Any, count: int, longest: int) -> None:
    """Write the first short pairs of a seeded order."""
    with gzip.open(source, "rt") as file:
        rows = [json.loads(line) for line in file]
    random.Random(0).shuffle(rows)
    room = longest - TEMPLATE_TOKENS
    short = [row for row in rows if all(len(tokenizer(row[side])["input_ids"]) <= room for side in row)]
    if len(short) < count:
        sys.exit(
            f"{source} has {len(short)} pairs of at most {room} tokens, not {count}: set --longest or ask for fewer"
        )
    target.write_text("".join(json.dumps(row) + "\n" for row in short[:count]))


def _pair(row: dict[str, Any], tokenizer: Any) -> Pair:
    ids = [tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False) for messages in _dialogues(row)]
    return ids[0], ids[1]


def _dialogues(row: dict[str, Any]) -> list[list[dict[str, Any]]]:
    return [[*row["prompt"], {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")]


def _trl(place: str, base: Path, tokenizer: Any, rows: list[dict[str, Any]], longest: int, folder: Path) -> Any:
    """TRL's own trainer on the same pairs."""
    sys.path.append(place)
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    records = [dict(zip(("chosen", "rejected"), _dialogues(row), strict=True)) for row in rows]
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    config = RewardConfig(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH // 2,
        gradient_accumulation_steps=2,
        num_train_epochs=1,
        learning_rate=RATE,
        adam_beta2=BETA2,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        max_length=longest,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=5,
    )
    RewardTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(records), processing_class=tokenizer
    ).train()
    return model


@torch.no_grad()
def _right(model: Any, pairs: list[Pair]) -> list[bool]:
    """Of each pair whether the better answer has the higher score."""
    model.eval()
    model.config.pad_token_id = None  # one dialogue at a time: the last token is the last token
    return [float(model(torch.tensor([a])).logits) > float(model(torch.tensor([b])).logits) for a, b in pairs]


if __name__ == "__main__":
    main()
