"""How far `ctl plan`'s predictions of memory and speed are from real training runs.

    python benchmarks/sizing.py [--steps 4] [--only llama-15m] [--saving]

Each case trains in processes that are forked from this one, which has imported everything. What a worker's resident
memory grows by until its peak, less what that of a model of next to nothing does, is what it was predicted to need
beside the runtime's fixed share. Speed is in tokens per second of CPU time, so that other work on the machine counts
less, and beside it per second of wall time. There is no Ray here: the training loop with its checkpoints, the engine
and gloo are those of every run. `--saving` measures what saves memory: activation checkpointing, layers that workers
share, adapters (over a base of random weights, on conversations of one length that are learned whole), and offloading,
which on a CPU moves nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}

import torch

from cluster.control.planning import hardware
from cluster.control.planning import prediction as sizing
from cluster.core.build import build
from cluster.core.graph import Step
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import (
    CorpusSpec,
    Lora,
    PretrainedSpec,
    PretrainSpec,
    QLora,
    ScalingSpec,
    SftSpec,
    TokenizerSpec,
    TokensSpec,
    TrainingSpec,
)

VOCABULARY = 4096
METHODS = {"lora": Lora(), "qlora": QLora()}


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

    activation_checkpointing: bool = False
    offload: tuple[str, ...] = ()
    tensor_parallel_size: int = 1
    method: str = ""  # with one, fine-tuning; else pretraining

    def spec(self, steps: int) -> TrainingSpec:
        common = {"global_batch_size": self.global_batch_size, "precision": self.precision, "optimizer": self.optimizer}
        if self.method:
            length = self.sequence_length + 1  # the last token is a label only
            return SftSpec(method=METHODS[self.method], sequence_length=length, **common)
        return PretrainSpec(
            model=self.model,
            total_tokens=steps * self.global_batch_size * self.sequence_length,
            validation_sequences=self.num_workers,
            **common,
        )

    def scaling(self) -> ScalingSpec:
        return ScalingSpec(
            num_workers=self.num_workers,
            zero_stage=self.zero_stage,
            micro_batch_size=self.micro_batch_size,
            activation_checkpointing=self.activation_checkpointing,
            tensor_parallel_size=self.tensor_parallel_size,
            **{f"offload_{what}": "cpu" for what in self.offload},
            log_every=1,
            checkpoint_every_seconds=0.1,  # the copy for a checkpoint is part of the peak
        )

    def __str__(self) -> str:
        """What differs from the defaults."""
        fields = dataclasses.asdict(self).items()
        return ", ".join(f"{name}={value}" for name, value in fields if value != getattr(Case, name, None))


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
SAVING = [
    CASES[0],
    *(Case("llama-15m", 1, 0, 8, activation_checkpointing=saved) for saved in (False, True)),
    Case("llama-15m", 1, 0, 8, precision="bf16", activation_checkpointing=True),
    Case("pythia-70m", 1, 0, 8, activation_checkpointing=True),
    *(Case("pythia-70m", 1, 0, 4, 4, 64, method=method) for method in ("lora", "qlora")),
    *(Case("pythia-70m", 1, 0, 8, method=method) for method in ("lora", "qlora")),
    Case("pythia-70m", 1, 0, 8, method="qlora", precision="bf16"),
    Case("pythia-70m", 1, 0, 8, method="lora", activation_checkpointing=True),
    Case("pythia-70m", 2, 1, 4, method="qlora"),
    *(Case("pythia-70m", 2, stage, 1, 4, 64, offload=("optimizer",)) for stage in (1, 2, 3)),
    Case("pythia-70m", 2, 3, 1, 4, 64, offload=("optimizer", "parameters")),
    *(Case(model, 2, 1, 4, tensor_parallel_size=size) for model in ("llama-15m", "pythia-70m") for size in (1, 2)),
]


def make_tokenizer(store: Store) -> tuple[Artifact, Artifact]:
    corpus = build(CorpusSpec(max_bytes=6_000_000, part_bytes=1_000_000), {}, store=store, name="bench")
    return corpus, build(TokenizerSpec(vocab_size=VOCABULARY), {"corpus": corpus}, store=store, name="bench")


def make_inputs(case: Case, store: Store, folder: str) -> dict[str, Artifact]:
    """Tokens; or an untrained model to be fine-tuned, written to `folder` first."""
    corpus, tokenizer = make_tokenizer(store)
    if not case.method:
        inputs = {"corpus": corpus, "tokenizer": tokenizer}
        spec = TokensSpec(sequence_length=case.sequence_length)
        return {"tokens": build(spec, inputs, store=store, name="bench")}
    from pipelines.stages.training.models.models import build_model, configuration

    source = Path(folder) / case.model
    if not source.exists():
        shutil.copytree(tokenizer.local(), source)
        options = {"vocab_size": VOCABULARY, "sequence_length": 512, "eos_token_id": 0}
        build_model(configuration(case.model, {}, **options), 0).save_pretrained(source)
    return {"model": build(PretrainedSpec(source=str(source)), {}, store=store, name="bench")}


def make_conversations(case: Case, steps: int, state: Location) -> None:
    """Of random tokens, as many as the steps see."""
    from cluster.core.encoding import Encoded
    from pipelines.stages.tuning.sequences import Sequences

    draw, length = random.Random(0), case.sequence_length + 1
    for split, count in (("train", steps * case.global_batch_size), ("heldout", case.num_workers)):
        found = [
            Encoded(draw.choices(range(VOCABULARY), k=length), [False] + [True] * (length - 1)) for _ in range(count)
        ]
        Sequences.collect(found).save(state, f"{split}.npz")


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rank_main(rank: int, case: Case, steps: int, inputs: dict[str, Artifact], folder: str) -> None:
    """One rank of a run; leaves growth of memory, CPU seconds and tokens of the steps behind the first quarter."""
    import torch.distributed as dist

    from pipelines.stages.training import loop as loops
    from pipelines.stages.training.batches import plan_batches
    from pipelines.stages.training.worker import Work, train

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

    import pipelines.stages.training.worker as worker

    worker.Clock = Clock  # type: ignore[misc]
    output = Location(f"{folder}/output")
    spec, scaling = case.spec(steps), case.scaling()
    plan = plan_batches(spec, scaling, steps)
    recipe = "pipelines.stages.tuning.recipe:sft" if case.method else "pipelines.stages.training.worker:pretrain"
    extra = {"vocab_size": VOCABULARY, "eos_token_id": 0, "told": {}} if case.method else {}
    train(Work(recipe, spec, scaling, plan, inputs, output, output / ".train", "bench", extra))
    skip = steps // 4
    done = (steps - skip) * case.global_batch_size * case.sequence_length
    (_, cpu, wall), (peak, cpu_end, wall_end) = peaks[skip - 1], peaks[-1]
    figures = [peak - before, before, done / ranks / (cpu_end - cpu), done / (wall_end - wall)]
    Path(f"{folder}/rank-{rank}.json").write_text(json.dumps(figures))


def measure(case: Case, steps: int, inputs: dict[str, Artifact]) -> list[float]:
    """Growth of memory of the largest rank, its memory before, tokens per CPU second and rank, tokens per second."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        if case.method:
            make_conversations(case, steps, Location(f"{folder}/output") / ".train")
        arguments = (case, steps, inputs, folder)
        ranks = [context.Process(target=rank_main, args=(rank, *arguments)) for rank in range(case.num_workers)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        if any(process.exitcode for process in ranks):
            sys.exit(Path(f"{folder}/log-0").read_text()[-3000:])
        return max(json.loads(Path(f"{folder}/rank-{rank}.json").read_text()) for rank in range(case.num_workers))


def prediction(case: Case, steps: int, inputs: dict[str, Artifact], store: Store) -> sizing.Prediction:
    scaling = case.scaling()
    step = Step("sft" if case.method else "pretrain", case.spec(steps), inputs, "")
    found = sizing.predict(step, store, scaling, hardware.here(scaling))
    assert found is not None
    return found


def prepare(cases: list[Case], steps: int, store: Store, folder: str) -> None:
    """Inputs and predictions, in a process of its own: torch's threads must not be running where others are forked."""
    inputs = [make_inputs(case, store, folder) for case in cases]
    found = [prediction(case, steps, given, store) for case, given in zip(cases, inputs, strict=True)]
    Path(folder, "predictions").write_text(json.dumps([[p.memory.as_dict(), p.tokens_per_second()] for p in found]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--saving", action="store_true")
    parser.add_argument("--store", default="")
    arguments = parser.parse_args()
    cases = SAVING if arguments.saving else CASES
    cases = cases[:1] + [case for case in cases[1:] if arguments.only in str(case)]
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        store = Store(arguments.store or folder)
        preparing = context.Process(target=prepare, args=(cases, arguments.steps, store, folder))
        preparing.start()
        preparing.join()
        inputs = [make_inputs(case, store, folder) for case in cases]  # found
        predictions = json.loads(Path(folder, "predictions").read_text())
        import pipelines.stages.training.worker
        import pipelines.stages.tuning.recipe  # noqa: F401  # before the forks

        torch.set_num_threads(1)
        print("memory beside the runtime's share; speed", flush=True)
        runtime = 0.0
        for case, given, (memory, rate) in zip(cases, inputs, predictions, strict=True):
            growth, before, cpu_rate, wall_rate = measure(case, arguments.steps, given)
            needed = memory["total_bytes"] - memory["runtime_bytes"]
            if case is CASES[0]:
                runtime = growth - needed
                print(f"the runtime's share: {(before + runtime) / 1e6:,.0f} MB, {runtime / 1e6:,.0f} of them here")
            error = needed / (growth - runtime) - 1
            print(
                f"{case}: {needed / 1e6:,.0f} MB predicted, {(growth - runtime) / 1e6:,.0f} measured "
                f"({error:+.0%}); {rate / case.num_workers:,.0f} tokens a second of a rank predicted, {cpu_rate:,.0f} "
                f"per second of its CPU time, {wall_rate / case.num_workers:,.0f} of wall time",
                flush=True,
            )


if __name__ == "__main__":
    main()
