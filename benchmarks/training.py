"""Tokens per second of the training loop against a plain PyTorch loop and the Hugging Face Trainer, on the same work.

    python benchmarks/training.py [--model llama-15m] [--steps 16] [--batch 32]

The same model, sequences and batch, AdamW, gradients clipped at 1, fp32, one thread a worker. Ours runs through Ray
Train and DeepSpeed, ZeRO 0, on 1 and on 2 workers, and keeps documents apart; the plain loop does what ours does
without either of them; the Trainer packs documents without keeping them apart, which is less work, and reads the same
sequences from memory. Ours and the Trainer also run compiled (`scaling.compile`, `torch_compile`). All accumulate the
gradients of micro-batches of 8 sequences, 2,048 tokens. Rates are medians of the steps behind the first quarter, which
compiling falls into; the plain loop and the Trainer run at the beginning and at the end, since machines drift. What two
workers exchange is the same for any batch: a small one makes more of it. 8,192 tokens a step are few; llama2.c takes
131,072 for this model. The plain loop's loss is ours. Ours alone runs with glibc told to keep memory (launch.py), which
`--kept` tells the rivals' processes, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.core.build import build
from cluster.core.metrics import DATA_WAIT_FRACTION, TOKENS_PER_SECOND, read
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import CorpusSpec, PretrainSpec, ScalingSpec, TokenizerSpec, TokensSpec
from pipelines.stages.training.launch import CPU_MEMORY

SEQUENCE_LENGTH, MICRO_BATCH, THREADS = 256, 8, 1


def spec_of(model: str, steps: int, seed: int, batch: int) -> PretrainSpec:
    return PretrainSpec(
        model=model,
        total_tokens=steps * batch * SEQUENCE_LENGTH,
        global_batch_size=batch,
        validation_sequences=8,
        warmup_steps=5,
        seed=seed,
    )


def make_tokens(store: Store) -> Artifact:
    corpus = build(CorpusSpec(max_bytes=6_000_000, part_bytes=1_000_000), {}, store=store, name="bench")
    tokenizer = build(TokenizerSpec(vocab_size=4096), {"corpus": corpus}, store=store, name="bench")
    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    return build(TokensSpec(sequence_length=SEQUENCE_LENGTH), inputs, store=store, name="bench")


def ours(
    store: Store, tokens: Artifact, model: str, steps: int, batch: int, workers: int, compiled: bool
) -> tuple[float, float]:
    """Tokens a second, and the share of the time that was waited for data."""
    scaling = ScalingSpec(
        num_workers=workers,
        cpus_per_worker=THREADS,
        zero_stage=0,
        micro_batch_size=MICRO_BATCH,
        log_every=1,
        checkpoint_every_seconds=10_000,
        compile=compiled,
    )
    # Scaling is no part of an identity: without a seed of its own the second run would find the first one's model.
    spec = spec_of(model, steps, seed=workers + 10 * compiled, batch=batch)
    lines = read(build(spec, {"tokens": tokens}, store=store, scaling=scaling, name="bench").location)
    waited = median([line[DATA_WAIT_FRACTION] for line in lines])
    return median([line[TOKENS_PER_SECOND] for line in lines]), waited


def median(rates: list[float]) -> float:
    return statistics.median(rates[len(rates) // 4 :])


def rival(what: str, tokens_folder: str, model: str, steps: int, batch: int) -> None:
    """One of the rivals, in this process; prints its rate as the last line."""
    import torch

    torch.set_num_threads(THREADS)
    from pipelines.stages.tokens.mixing.mixture import Curriculum, MixedOrder
    from pipelines.stages.tokens.order import Order
    from pipelines.stages.tokens.reader import TokenStore
    from pipelines.stages.tokens.stream import SINGLE, TokenStream
    from pipelines.stages.training.models.models import build_model, configuration

    store = TokenStore(tokens_folder, "train")
    stream = TokenStream({SINGLE: store}, MixedOrder([Order(store.num_sequences, 1)], Curriculum([], [[1]])))
    config = configuration(
        model, {}, vocab_size=store.vocab_size, sequence_length=SEQUENCE_LENGTH, eos_token_id=store.eos_token_id
    )
    built = build_model(config, 1)
    if what == "plain":
        seconds = plain(built, stream, store.eos_token_id, steps, batch)
    else:
        seconds = trainer(built, stream, steps, batch, compiled=what == "trainer-compiled")
    print(json.dumps(median([batch * SEQUENCE_LENGTH / one for one in seconds])))


def plain(model: Any, stream: Any, eos_token_id: int, steps: int, size: int) -> list[float]:
    import torch

    from pipelines.stages.training.objectives.causal import CausalLM

    objective = CausalLM(model, eos_token_id, "fp32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    seconds = []
    for step in range(steps):
        began = time.perf_counter()
        batch = torch.from_numpy(stream.read(step * size, (step + 1) * size))
        total = torch.zeros(())
        for micro_batch in batch.split(MICRO_BATCH):
            loss = objective(micro_batch) / (size * SEQUENCE_LENGTH)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        total.item()
        seconds.append(time.perf_counter() - began)
    return seconds


def trainer(model: Any, stream: Any, steps: int, size: int, compiled: bool) -> list[float]:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    sequences = torch.from_numpy(stream.read(0, steps * size))[:, :-1]
    data = [{"input_ids": row, "labels": row} for row in sequences]
    seconds: list[float] = []

    class Steps(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            seconds.append(time.perf_counter() - self.began)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=size // MICRO_BATCH,
            max_steps=steps, learning_rate=5e-4, weight_decay=0.1,
            adam_beta2=0.95, max_grad_norm=1.0, use_cpu=True, report_to="none", save_strategy="no", logging_steps=1,
            disable_tqdm=True, seed=1, torch_compile=compiled,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=data, callbacks=[Steps()]).train()  # type: ignore[arg-type]
    return seconds


def ask(what: str, tokens: Artifact, model: str, steps: int, batch: int, kept: bool) -> float:
    command = [sys.executable, __file__, "--rival", what, "--tokens", str(tokens.local())]
    command += ["--model", model, "--steps", str(steps), "--batch", str(batch)]
    environment = os.environ | (CPU_MEMORY if kept else {})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{what} ended with {done.returncode}: {done.stderr[-3000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="llama-15m")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32, help="sequences a step")
    parser.add_argument("--kept", action="store_true", help="rivals, too, run with glibc told to keep memory")
    parser.add_argument("--rival", default="")
    parser.add_argument("--tokens", default="")
    arguments = parser.parse_args()
    model, steps, batch = arguments.model, arguments.steps, arguments.batch
    if arguments.rival:
        rival(arguments.rival, arguments.tokens, model, steps, batch)
        return
    rates, waits = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        tokens = make_tokens(store)
        rivals = ("plain", "trainer", "trainer-compiled")
        before = {name: ask(name, tokens, model, steps, batch, arguments.kept) for name in rivals}
        for workers, compiled in ((1, False), (2, False), (1, True), (2, True)):
            name = f"ours, {workers} worker(s){', compiled' * compiled}"
            rates[name], waits[name] = ours(store, tokens, model, steps, batch, workers, compiled)
        for name, rate in before.items():
            after = ask(name, tokens, model, steps, batch, arguments.kept)
            print(f"{name}: {rate:,.0f} tokens a second before, {after:,.0f} after")
            rates[name] = (rate + after) / 2
    for name, rate in rates.items():
        print(f"{name}: {rate:,.0f} tokens a second")
    one, two = (rates[f"ours, {workers} worker(s)"] for workers in (1, 2))
    fast, fast_two = (rates[f"ours, {workers} worker(s), compiled"] for workers in (1, 2))
    plain_rate, trainer_rate = rates["plain"], rates["trainer"]
    print(f"1 worker against plain PyTorch: {one / plain_rate:.3f} (bar: 0.97)")
    print(f"1 worker against the Trainer: {one / trainer_rate:.3f}; compiled {fast / trainer_rate:.3f} (bar: 1.10)")
    print(f"1 worker against the Trainer, both compiled: {fast / rates['trainer-compiled']:.3f}")
    print(f"2 workers against 1: {two / one:.3f}; compiled {fast_two / fast:.3f} (bar: 1.8)")
    print(f"waited for data: at most {max(waits.values()):.4f} of the time (bar: 0.01)")


if __name__ == "__main__":
    main()
