"""How far `ctl plan`'s predictions of memory and speed are from real training runs.

    python benchmarks/sizing.py [--steps 4] [--only llama-15m]

Each case trains in processes that are forked from this one, which has imported everything. What a worker's resident
memory grows by until its peak, less what that of a model of next to nothing does, is what it was predicted to need
beside the runtime's fixed share. Speed is in tokens per second of CPU time, so that other work on the machine counts
less, and beside it per second of wall time. There is no Ray here: the training loop with its checkpoints, the engine
and gloo are those of every run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

import torch

from cluster import hardware
from cluster.artifact import Artifact
from cluster.build import build
from cluster.graph import Step
from cluster.location import Location
from cluster.sizing import Prediction
from cluster.specs import CorpusSpec, PretrainSpec, ScalingSpec, TokenizerSpec, TokensSpec
from cluster.store import Store
from pipelines.training.sizing import predict

VOCABULARY = 4096


@dataclass(frozen=True)
class Case:
    model: str
    num_workers: int
    zero_stage: int
    micro_batch_size: int
    global_batch_size: int = 8
    sequence_length: int = 256
    precision: str = "fp32"
    optimizer: str = "adamw"

    def spec(self, steps: int) -> PretrainSpec:
        return PretrainSpec(
            model=self.model,
            total_tokens=steps * self.global_batch_size * self.sequence_length,
            global_batch_size=self.global_batch_size,
            validation_sequences=self.num_workers,
            precision=self.precision,
            optimizer=self.optimizer,
        )

    def scaling(self) -> ScalingSpec:
        return ScalingSpec(
            num_workers=self.num_workers,
            zero_stage=self.zero_stage,
            micro_batch_size=self.micro_batch_size,
            log_every=1,
            checkpoint_every_seconds=0.1,  # the copy for a checkpoint is part of the peak
        )


CASES = [
    Case("gpt2-1m", 2, 1, 1, 2, 64),  # the runtime's share and little else
    *(Case("pythia-70m", 2, stage, 1, 4, 64) for stage in range(4)),  # model states weigh most
    Case("pythia-70m", 1, 0, 2, 2, 64),
    Case("pythia-70m", 2, 1, 2, 4, 64, optimizer="muon"),
    *(Case("llama-1m", 1, 0, micro) for micro in (2, 8)),  # activations do
    Case("llama-1m", 1, 0, 8, precision="bf16"),
    Case("bloom-1m", 1, 0, 8),
    *(Case("llama-15m", 2, stage, 4) for stage in (0, 1, 3)),
    Case("llama-15m", 1, 0, 8),
    Case("gpt2-10m", 1, 0, 8),
    Case("gpt2-10m", 2, 1, 2),
]


def make_tokens(store: Store, sequence_length: int) -> Artifact:
    corpus = build(CorpusSpec(max_bytes=6_000_000, part_bytes=1_000_000), {}, store=store, name="bench")
    tokenizer = build(TokenizerSpec(vocab_size=VOCABULARY), {"corpus": corpus}, store=store, name="bench")
    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    return build(TokensSpec(sequence_length=sequence_length), inputs, store=store, name="bench")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rank_main(rank: int, case: Case, steps: int, tokens: Artifact, folder: str) -> None:
    """One rank of a run; leaves growth of memory, CPU seconds and tokens of the steps behind the first quarter."""
    import torch.distributed as dist

    from pipelines.training import loop as loops
    from pipelines.training.batches import plan_batches
    from pipelines.training.worker import Work, train

    ranks = case.num_workers
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.dup2(os.open(f"{folder}/log-{rank}", os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    before = resident_bytes()
    peaks: list[tuple[int, float, float]] = []

    class Clock(loops.Clock):  # at every step's log line
        def lap(self, step: int, steps: int, tokens: int) -> dict:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            peaks.append((peak, time.process_time(), time.monotonic()))
            return super().lap(step, steps, tokens)

    import pipelines.training.worker as worker

    worker.Clock = Clock  # type: ignore[misc]
    output = Location(f"{folder}/output")
    spec, scaling = case.spec(steps), case.scaling()
    plan = plan_batches(spec, scaling, steps)
    recipe = "pipelines.training.worker:pretrain"
    train(Work(recipe, spec, scaling, plan, {"tokens": tokens}, output, output / ".train", "bench"))
    skip = steps // 4
    done = (steps - skip) * case.global_batch_size * case.sequence_length
    (_, cpu, wall), (peak, cpu_end, wall_end) = peaks[skip - 1], peaks[-1]
    figures = [peak - before, before, done / ranks / (cpu_end - cpu), done / (wall_end - wall)]
    Path(f"{folder}/rank-{rank}.json").write_text(json.dumps(figures))


def measure(case: Case, steps: int, tokens: Artifact) -> list[float]:
    """Growth of memory of the largest rank, its memory before, tokens per CPU second and rank, tokens per second."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        arguments = (case, steps, tokens, folder)
        ranks = [context.Process(target=rank_main, args=(rank, *arguments)) for rank in range(case.num_workers)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            sys.exit(Path(f"{folder}/log-0").read_text()[-3000:])
        return max(json.loads(Path(f"{folder}/rank-{rank}.json").read_text()) for rank in range(case.num_workers))


def prediction(case: Case, steps: int, tokens: Artifact) -> Prediction:
    scaling = case.scaling()
    return predict(Step("pretrain", case.spec(steps), {"tokens": tokens}, ""), scaling, hardware.here(scaling))


def predict_all(cases: list[Case], steps: int, stores: dict[int, Artifact], place: str) -> None:
    """In a process of its own: torch's threads must not be running where others are forked."""
    found = [prediction(case, steps, stores[case.sequence_length]) for case in cases]
    Path(place).write_text(json.dumps([[p.memory.as_dict(), p.tokens_per_second()] for p in found]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--store", default="")
    arguments = parser.parse_args()
    cases = CASES[:1] + [case for case in CASES[1:] if arguments.only in case.model]
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        store = Store(arguments.store or folder)
        preparing = context.Process(target=lambda: [make_tokens(store, case.sequence_length) for case in cases])
        preparing.start()
        preparing.join()
        stores = {length: make_tokens(store, length) for length in {case.sequence_length for case in cases}}
        import pipelines.training.worker  # noqa: F401  # before the forks

        torch.set_num_threads(1)
        place = f"{folder}/predictions"
        predicting = context.Process(target=predict_all, args=(cases, arguments.steps, stores, place))
        predicting.start()
        predicting.join()
        predictions = json.loads(Path(place).read_text())
        print("model, workers, ZeRO, micro-batch: memory beside the runtime's share; speed")
        runtime = 0.0
        for case, (memory, rate) in zip(cases, predictions, strict=True):
            growth, before, cpu_rate, wall_rate = measure(case, arguments.steps, stores[case.sequence_length])
            needed = memory["total_bytes"] - memory["runtime_bytes"]
            if case is CASES[0]:
                runtime = growth - needed
                print(f"the runtime's share: {(before + runtime) / 1e6:,.0f} MB, {runtime / 1e6:,.0f} of them here")
            error = needed / (growth - runtime) - 1
            print(
                f"{case.model} {case.num_workers} {case.zero_stage} {case.micro_batch_size} {case.precision} "
                f"{case.optimizer}: {needed / 1e6:,.0f} MB predicted, {(growth - runtime) / 1e6:,.0f} measured "
                f"({error:+.0%}); {rate / case.num_workers:,.0f} tokens a second of a rank predicted, {cpu_rate:,.0f} "
                f"per second of its CPU time, {wall_rate / case.num_workers:,.0f} of wall time",
                flush=True,
            )


if __name__ == "__main__":
    main()
