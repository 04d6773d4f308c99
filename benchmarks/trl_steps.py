"""A step of GRPO, RLOO and PPO, ours beside TRL's: seconds and peak memory, SmolLM2-135M-Instruct in fp32 on two cores.

    pip install --no-deps --target TRL trl==1.16.0
    python benchmarks/trl_steps.py ALPACA.json FOLDER --trl TRL [--steps 4] [--rounds 1]

Each step: the same 4 prompts of Alpaca to both, 4 answers to each, at most 64 tokens at temperature 1, KL to a
reference, one update of all weights. TRL 1.16 samples by transformers, its default, and has no PPO, which is held
against our GRPO; `ppo` has a critic of the policy's size, `ppo-head` a head on the policy. Both without activation
checkpointing, checkpoints of the run and ZeRO. The first step, which warms up, is left out. Memory is the proportional
set size of the whole tree of processes, sampled every three seconds, from the first step's beginning on. Each case has
a process of its own, so that none is weighed with what another has left.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from msgspec.structs import replace

from cluster.control.screen.view import make_view
from cluster.core import metrics
from cluster.core.graph import Steps
from cluster.core.storage.store import Store
from cluster.pipeline import Pipeline, build, run
from pipelines.specs import (
    ConversationsSpec,
    Gae,
    Group,
    LeaveOneOut,
    PretrainedSpec,
    RepetitionReward,
    RlhfSpec,
    ValueFunction,
)
from pipelines.specs import ScalingSpec as Scaling

PPO: dict[str, Any] = {"ppo": "policy", "ppo-head": "head"}  # where the critic begins: a model of its own, or a head
PROMPTS, ANSWERS, LENGTH, RATE, KL = 4, 4, 64, 1e-6, 0.05


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("alpaca", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trl", required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=["grpo", "rloo", *PPO])
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)  # of one process: who, what, round
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    sys.path.append(given.trl)
    asked = _prompts(given.alpaca, given.folder, PROMPTS * given.steps)
    store = Store(given.folder / "store")

    def inputs(step: Steps) -> Any:
        file = str(given.folder / "prompts.jsonl")
        step(ConversationsSpec(source="file", path=file, format="prompts", heldout_fraction=0.01))
        return step(PretrainedSpec())

    built = run(Pipeline(inputs).graph(store), store, make_view())
    if given.case:
        who, algorithm, round_ = given.case
        if who == "ours":
            found = _ours(algorithm, built, store, given.steps, int(round_))
        else:
            found = _trl(algorithm, built["pretrained"].local(), asked, given.steps, given.folder / "trl")
        print(f"{who} {algorithm}: {_told(*found)}", flush=True)
        return
    for round_ in range(given.rounds):
        for algorithm in given.only:
            for who in ("ours", "TRL") if algorithm not in PPO else ("ours",):
                subprocess.run([sys.executable, *sys.argv, "--case", who, algorithm, str(round_)], check=True)


def _told(seconds: list[float], peak: int) -> str:
    each = " ".join(f"{one:.1f}" for one in seconds)
    return f"{median(seconds):.1f} s a step ({each}), peak {peak / 2**20:,.0f} MB"


def _prompts(alpaca: Path, folder: Path, count: int) -> list[str]:
    """Requests of one length, about, of which one more is held out."""
    rows = json.loads(alpaca.read_text())
    asked = [row["instruction"] for row in rows if not row["input"] and 40 < len(row["instruction"]) < 80]
    asked = list(dict.fromkeys(asked))[: count + 30]
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in asked)
    (folder / "prompts.jsonl").write_text(lines)
    return asked[:count]


def _ours(algorithm: str, built: dict[str, Any], store: Store, steps: int, round_: int) -> tuple[list[float], int]:
    spec = RlhfSpec(
        steps=steps,
        global_batch_size=PROMPTS * ANSWERS,
        group_size=ANSWERS,
        rewards={"new": RepetitionReward()},
        learning_rate=RATE,
        kl_coef=KL,
        max_prompt_tokens=128,
        max_completion_tokens=LENGTH,
        evaluate_every_steps=0,
        evaluation_prompts=1,
        seed=round_,
        **{"grpo": {"advantage": Group()}, "rloo": {"advantage": LeaveOneOut()}}.get(algorithm, {}),
    )
    if critic := PPO.get(algorithm):
        spec = replace(spec, advantage=Gae(critic=ValueFunction(start=critic)), kl_penalty="reward")
    inputs = {"model": built["pretrained"], "prompts": built["conversations"]}
    # As TRL: one process that uses both cores, no checkpoint, and nothing that is shared out.
    scaling = Scaling(num_workers=1, cpus_per_worker=2, log_every=1, checkpoint_every_seconds=1e6, zero_stage=0)
    with _peak() as peak:
        found = build(spec, inputs, store=store, scaling=scaling, name=f"{algorithm}-{round_}")
    lines = metrics.read(found.location)
    seconds = [(b[metrics.TOKENS] - a[metrics.TOKENS]) / b[metrics.TOKENS_PER_SECOND] for a, b in pairwise(lines)]
    return seconds, peak[0]


def _trl(algorithm: str, model: Path, asked: list[str], steps: int, folder: Path) -> tuple[list[float], int]:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *given: Any, **named: Any) -> None:
            ends.append(time.monotonic())

    config, trainer = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[algorithm]
    arguments = config(
        output_dir=str(folder),
        per_device_train_batch_size=PROMPTS * ANSWERS,
        num_generations=ANSWERS,
        max_completion_length=LENGTH,
        max_steps=steps,
        learning_rate=RATE,
        beta=KL,
        temperature=1.0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        model_init_kwargs={"dtype": "float32"},
    )
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in asked])
    with _peak() as peak:
        trainer(str(model), reward_funcs=[_new], args=arguments, train_dataset=data, callbacks=[Clock()]).train()
    return [b - a for a, b in pairwise(ends)], peak[0]


def _new(completions: list[Any], **_: Any) -> list[float]:
    """The share of word trigrams that are new, as our own reward of repetition."""
    found = []
    for completion in completions:
        words = completion[0]["content"].split()
        grams = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
        found.append(len(set(grams)) / len(grams) if grams else 1.0)
    return found


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The peak of what this process and those below it have, in bytes, beyond what it had before."""
    peak, ended = [0], threading.Event()
    before = psutil.Process().memory_full_info().pss

    def watch() -> None:
        while not ended.wait(3.0):
            total = 0
            for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
            peak[0] = max(peak[0], total - before)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield peak
    finally:
        ended.set()
        watching.join()


if __name__ == "__main__":
    main()
