"""Tokens per second of the training loop against a plain PyTorch loop and the Hugging Face Trainer, on the same work.

    python benchmarks/training.py [--model llama-15m] [--steps 40]

The same model, sequences and batch, AdamW, gradients clipped at 1, fp32, one thread a worker. Ours runs through Ray
Train and DeepSpeed, ZeRO 0, on 1 and on 2 workers, and keeps documents apart; the plain loop does what ours does
without either of them; the Trainer packs documents without keeping them apart, which is less work, and reads the same
sequences from memory. Rates are medians of the steps behind the first quarter.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.artifact import Artifact
from cluster.build import build
from cluster.metrics import TOKENS_PER_SECOND, read
from cluster.specs import CorpusSpec, PretrainSpec, ScalingSpec, TokenizerSpec, TokensSpec
from cluster.store import Store

SEQUENCE_LENGTH, BATCH, THREADS = 256, 8, 1


def spec_of(model: str, steps: int, seed: int) -> PretrainSpec:
    return PretrainSpec(
        model=model,
        total_tokens=steps * BATCH * SEQUENCE_LENGTH,
        global_batch_size=BATCH,
        validation_sequences=8,
        warmup_steps=5,
        seed=seed,
    )


def make_tokens(store: Store) -> Artifact:
    corpus = build(CorpusSpec(max_bytes=6_000_000, part_bytes=1_000_000), {}, store=store, name="bench")
    tokenizer = build(TokenizerSpec(vocab_size=4096), {"corpus": corpus}, store=store, name="bench")
    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    return build(TokensSpec(sequence_length=SEQUENCE_LENGTH), inputs, store=store, name="bench")


def ours(store: Store, tokens: Artifact, model: str, steps: int, workers: int) -> float:
    scaling = ScalingSpec(
        num_workers=workers, cpus_per_worker=THREADS, zero_stage=0, log_every=1, checkpoint_every_seconds=10_000
    )
    # Scaling is no part of an identity: without a seed of its own the second run would find the first one's model.
    spec = spec_of(model, steps, seed=workers)
    found = build(spec, {"tokens": tokens}, store=store, scaling=scaling, name="bench")
    return median([line[TOKENS_PER_SECOND] for line in read(found.location)])


def median(rates: list[float]) -> float:
    return statistics.median(rates[len(rates) // 4 :])


def rates_of(seconds: list[float]) -> float:
    return median([BATCH * SEQUENCE_LENGTH / one for one in seconds])


def rival(what: str, tokens_folder: str, model: str, steps: int) -> None:
    """One of the rivals, in this process; prints its rate as the last line."""
    import torch

    torch.set_num_threads(THREADS)
    from pipelines.tokens.mixture import Curriculum, MixedOrder
    from pipelines.tokens.order import Order
    from pipelines.tokens.reader import TokenStore
    from pipelines.tokens.stream import SINGLE, TokenStream
    from pipelines.training.models import build_model, configuration

    store = TokenStore(tokens_folder, "train")
    stream = TokenStream({SINGLE: store}, MixedOrder([Order(store.num_sequences, 1)], Curriculum([], [[1]])))
    config = configuration(
        model, {}, vocab_size=store.vocab_size, sequence_length=SEQUENCE_LENGTH, eos_token_id=store.eos_token_id
    )
    built = build_model(config, 1)
    run = plain if what == "plain" else trainer
    print(json.dumps(rates_of(run(built, stream, store.eos_token_id, steps))))


def plain(model: Any, stream: Any, eos_token_id: int, steps: int) -> list[float]:
    import torch

    from pipelines.training.objectives import CausalLM

    objective = CausalLM(model, eos_token_id, "fp32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        batch = torch.from_numpy(stream.read(step * BATCH, (step + 1) * BATCH))
        loss = objective(batch) / (BATCH * SEQUENCE_LENGTH)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        seconds.append(time.perf_counter() - began)
    return seconds


def trainer(model: Any, stream: Any, eos_token_id: int, steps: int) -> list[float]:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    sequences = torch.from_numpy(stream.read(0, steps * BATCH))[:, :-1]
    data = [{"input_ids": row, "labels": row} for row in sequences]
    seconds: list[float] = []

    class Steps(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, max_steps=steps, learning_rate=5e-4, weight_decay=0.1,
            adam_beta2=0.95, max_grad_norm=1.0, use_cpu=True, report_to="none", save_strategy="no", logging_steps=1,
            disable_tqdm=True, seed=1,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, callbacks=[Steps()]).train()  # type: ignore[arg-type]
    return seconds


def ask(what: str, tokens: Artifact, model: str, steps: int) -> float:
    command = [sys.executable, __file__, "--rival", what, "--tokens", str(tokens.local())]
    command += ["--model", model, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llama-15m")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rival", default="")
    parser.add_argument("--tokens", default="")
    arguments = parser.parse_args()
    if arguments.rival:
        rival(arguments.rival, arguments.tokens, arguments.model, arguments.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        tokens = make_tokens(store)
        rates = {"plain PyTorch": ask("plain", tokens, arguments.model, arguments.steps)}
        rates["Trainer"] = ask("trainer", tokens, arguments.model, arguments.steps)
        for workers in (1, 2):
            rates[f"ours, {workers}"] = ours(store, tokens, arguments.model, arguments.steps, workers)
    for name, rate in rates.items():
        print(f"{name}: {rate:,.0f} tokens a second")
    print(f"1 worker against plain PyTorch: {rates['ours, 1'] / rates['plain PyTorch']:.3f} (bar: 0.97)")
    print(f"1 worker against the Trainer: {rates['ours, 1'] / rates['Trainer']:.3f} (bar: 1.10)")
    print(f"2 workers against 1: {rates['ours, 2'] / rates['ours, 1']:.3f} (bar: 1.8)")


if __name__ == "__main__":
    main()
