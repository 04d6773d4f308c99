"""A two-digit adder: a Llama of a million parameters reads sums, is tuned on them, and goes on by GRPO.

    python benchmarks/adder.py FOLDER [--seeds 0 1 2]

10,000 sums `12+34=` are shuffled; the last 2,000 are held out, and no stage learns from them. The text has the
solutions of the first 2,000, tuning sees those of 4,000 more, and GRPO asks all 8,000 and is told whether the number is
right. The share of exact answers is of all held-out sums, one sample of each at temperature 1.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.control.screen.view import make_view
from cluster.core.graph import Steps
from cluster.core.storage.store import Store
from cluster.pipeline import Pipeline, run
from pipelines.specs import (
    ConversationsSpec,
    CorpusSpec,
    PretrainSpec,
    RlhfSpec,
    SftSpec,
    TextSource,
    TokenizerSpec,
    TokensSpec,
)
from pipelines.stages.alignment import curve

MUON: dict[str, Any] = {"optimizer": "muon", "weight_decay": 0.0, "schedule": "linear"}
READ, TUNED, ASKED = 2_000, 6_000, 8_000  # of the shuffled sums: up to which each stage knows them
LINES = 20  # of a document


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    _write(given.folder)
    store = Store(given.folder / "store")
    for seed in given.seeds:
        found = run(
            Pipeline(_line(given.folder, seed)).graph(store, {"scaling": {"num_workers": 2}}), store, make_view()
        )
        points = curve.read(found["rlhf"].location)
        shares = ", ".join(f"{point['step']}: {point['heldout_gsm8k']:.4f}" for point in points)
        print(f"seed {seed}: exact at steps {shares}; KL {points[-1]['heldout_kl']:.3f}", flush=True)


def _line(folder: Path, seed: int) -> Any:
    def adder(step: Steps) -> Any:
        corpus = step(CorpusSpec(sources=(TextSource(path=str(folder / "text")),), rules=()))
        tokenizer = step(TokenizerSpec(algorithm="characters"), corpus=corpus)
        tokens = step(TokensSpec(sequence_length=128), corpus=corpus, tokenizer=tokenizer)
        read = PretrainSpec(
            model="llama-1m", total_tokens=400_000, global_batch_size=16, learning_rate=4e-3, seed=seed, **MUON
        )
        base = step(read, tokens=tokens)
        worked = _file(folder, "worked", "asked")
        tuned = SftSpec(
            template="completion",
            epochs=25,
            global_batch_size=64,
            sequence_length=128,
            muon_learning_rate=0.01,
            learning_rate=1e-3,
            seed=seed,
            **MUON,
        )
        sft = step(tuned, model=base, conversations=step(worked, name="worked"))
        recipe = RlhfSpec(
            rewards={"gsm8k": 1.0},
            steps=120,
            global_batch_size=256,
            group_size=8,
            learning_rate=1e-4,
            max_prompt_tokens=16,
            max_completion_tokens=10,
            evaluation_prompts=2_000,
            evaluate_every_steps=20,
            seed=seed,
        )
        return step(recipe, model=sft, prompts=step(_file(folder, "sums", "asked"), name="sums"))

    return adder


def _file(folder: Path, name: str, heldout: str) -> ConversationsSpec:
    train, validation = (str(folder / f"{file}.jsonl") for file in (name, heldout))
    return ConversationsSpec(source="file", path=train, validation_path=validation)


def _write(folder: Path) -> None:
    sums = [(a, b) for a in range(100) for b in range(100)]
    random.Random(0).shuffle(sums)
    rows = [{"prompt": f"{a}+{b}=", "response": f"#### {a + b}"} for a, b in sums]
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for at in range(0, READ, LINES):
        lines = [f"{row['prompt']}{row['response']}\n" for row in rows[at : at + LINES]]
        (folder / "text" / f"{at}.txt").write_text("".join(lines))
    for name, part in (("worked", rows[READ:TUNED]), ("sums", rows[:ASKED]), ("asked", rows[ASKED:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


if __name__ == "__main__":
    main()
