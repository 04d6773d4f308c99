"""Fine-tuning of SmolLM2-135M-Instruct on Alpaca against TRL's SFTTrainer, and against ourselves, in one run.

    pip install --no-deps --target FOLDER trl==1.16.0
    python benchmarks/tuning.py ALPACA.json --trl FOLDER [--only losses|speed|packing|memory] [--rounds 3] [--threads 1]

Both sides train the same LoRA (rank 16, every linear layer but the output, alike to the bit at the beginning) in fp32
by AdamW on the same rows, batch by batch: those that our stage makes, which TRL is given as tokens, labels and lengths,
so that neither packs better. TRL flattens a micro-batch and keeps conversations apart by a mask of it; it runs with
micro-batches of all rows of a step and of one, and the better one counts. Sides take turns, `--rounds` times, each in
a process of its own, since machines drift; a rate is that of all steps behind the first together, by wall time and by
the process's CPU time, which other work on the machine slows less; a ratio is the median over the rounds. Packing is
measured on an epoch of some conversations: batches differ much in padding. Memory is
the growth of a process's peak from before the model is loaded to its last step, and to its end, where ours has merged
and written the model. Ours alone runs with glibc told to keep memory, as its workers do (launch.py).
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.core import metrics
from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec, Full, Lora, PretrainedSpec, QLora, ScalingSpec, SftSpec

STEPS_OF_LOSSES = 20
HELDOUT = 1
EPOCH = 128  # conversations
MODULES = {
    "ours": ("pipelines.stages.training.worker", "pipelines.stages.tuning.recipe"),
    "trl": ("trl.trainer.sft_trainer", "pipelines.stages.tuning.recipe"),
}


METHODS = {"full": Full(), "lora": Lora(), "qlora": QLora()}


@dataclass(frozen=True)
class Case:
    """One run. `batch` rows a step, in micro-batches of `micro`, of at most `length` tokens; 0 steps: an epoch."""

    side: str
    steps: int
    method: str = "lora"
    packing: bool = True
    length: int = 512
    batch: int = 4
    micro: int = 4
    checkpointing: bool = False
    conversations: int = 500

    def spec(self) -> SftSpec:
        return SftSpec(
            method=METHODS[self.method],
            packing=self.packing,
            sequence_length=self.length,
            global_batch_size=self.batch,
            schedule="constant",
            warmup_steps=0,
        )

    def scaling(self) -> ScalingSpec:
        return ScalingSpec(
            num_workers=1,
            zero_stage=0,
            micro_batch_size=self.micro,
            log_every=1,
            checkpoint_every_seconds=10_000,
            activation_checkpointing=self.checkpointing,
        )


def make_inputs(store: Store, alpaca: str) -> dict[str, Artifact]:
    conversations = ConversationsSpec(source="file", path=alpaca, format="alpaca")
    return {
        "model": build(PretrainedSpec(), {}, store=store, name="bench"),
        "conversations": build(conversations, {}, store=store, name="bench"),
    }


def make_rows(case: Case, inputs: dict[str, Artifact], tokenizer: Any, split: str, count: int) -> Any:
    """The first conversations of a split in rows, as the stage makes them."""
    from cluster.core.encoding import encode
    from pipelines.stages.tuning.conversations import read_conversations
    from pipelines.stages.tuning.sequences import Sequences
    from pipelines.stages.tuning.truncation import Fitting

    fitting = Fitting(lambda row: [encode(tokenizer, row["messages"])], case.length, "cut-end")
    rows = read_conversations(inputs["conversations"].local(), split)[:count]
    found = Sequences.collect(one for examples in fitting.examples(rows) for one in examples)
    return found.packed(case.length) if case.packing else found


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Told:
    """Of each step: wall and CPU seconds, and the loss; peaks of resident bytes after the steps and at the end."""

    wall: list[float]
    cpu: list[float]
    losses: list[float]
    trained: int
    ended: int = 0


def run_side(case: Case, store: Store, alpaca: str, threads: int) -> dict[str, Any]:
    """One side of one case, in this process: its tokens a second by both clocks, losses and growths of memory."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(threads)
    from pipelines.stages.tokens.order import Order
    from pipelines.stages.tuning.templates import prepare

    inputs = make_inputs(store, alpaca)
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
    prepare(tokenizer, "")
    extra = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "told": {}}
    counts = {"train": case.conversations, "heldout": HELDOUT}
    rows = {split: make_rows(case, inputs, tokenizer, split, count) for split, count in counts.items()}
    case = replace(case, steps=case.steps or len(rows["train"]) // case.batch)
    order = Order(len(rows["train"]), case.spec().seed).samples(0, case.steps * case.batch)
    first = 1  # that is timed
    micro = rows["train"].lengths[order].reshape(case.steps, -1, case.micro)
    padding = 1 - micro[first:].sum() / (micro.max(axis=2)[first:].sum() * case.micro)
    for module in MODULES[case.side]:
        importlib.import_module(module)  # what they take is no memory of the training
    before = resident_bytes()
    with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
        if case.side == "trl":
            told = theirs(case, inputs, rows["train"], order.tolist(), extra, folder)
        else:
            told = ours(case, inputs, rows, extra, folder, threads)
    told.ended = peak_bytes()

    def rate(seconds: list[float]) -> float:
        return float(micro[first:].sum()) / sum(seconds[first:])

    memory = {"trained": told.trained - before, "ended": told.ended - before}
    rates = {"rate": rate(told.wall), "cpu_rate": rate(told.cpu), "padding": float(padding)}
    return rates | {"losses": told.losses, **memory}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(
    case: Case, inputs: dict[str, Artifact], rows: dict[str, Any], extra: dict[str, Any], folder: str, threads: int
) -> Told:
    import msgspec
    import torch.distributed as dist

    from pipelines.stages.training import loop, worker
    from pipelines.stages.training.batches import plan_batches

    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    laps: list[tuple[float, float, int]] = []

    class Clock(loop.Clock):  # at the beginning, and at every step's log line
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            laps.append((time.perf_counter(), time.process_time(), 0))

        def lap(self, step: int, steps: int, tokens: int) -> dict[str, Any]:
            laps.append((time.perf_counter(), time.process_time(), peak_bytes()))
            return super().lap(step, steps, tokens)

    worker.Clock = Clock  # type: ignore[misc]
    spec, output = case.spec(), Location(Path(folder) / "output")
    scaling = msgspec.structs.replace(case.scaling(), cpus_per_worker=threads)
    for split, sequences in rows.items():
        sequences.save(output, f"{split}.npz")
    plan = plan_batches(spec, scaling, case.steps)
    recipe = "pipelines.stages.tuning.recipe:sft"
    worker.train(worker.Work(recipe, spec, scaling, plan, inputs, output, output, "bench", extra))
    wall, cpu = ([b[i] - a[i] for a, b in itertools.pairwise(laps)] for i in range(2))
    return Told(wall, cpu, [line[metrics.LOSS] for line in metrics.read(output)], laps[-1][2])


def theirs(
    case: Case, inputs: dict[str, Artifact], rows: Any, order: list[int], extra: dict[str, Any], folder: str
) -> Told:
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from pipelines.stages.tuning.recipe import load_with_rows

    spec = case.spec()
    data = []
    for row in order:
        batch = rows.batch([row])
        tokens, learn = batch["tokens"][0], torch.cat([torch.zeros(1, dtype=torch.bool), batch["learn"][0]])
        starts = batch["starts"][0].nonzero().flatten() if case.packing else torch.zeros(1, dtype=torch.int64)
        lengths = torch.diff(starts, append=torch.tensor([len(tokens)]))
        labels = tokens.where(learn, -100)
        data.append({"input_ids": tokens.tolist(), "labels": labels.tolist()})
        if case.packing:
            data[-1]["seq_lengths"] = lengths.tolist()
    began, told = (0.0, 0.0), Told([], [], [0.0] * case.steps, 0)

    class Steps(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            nonlocal began
            began = time.perf_counter(), time.process_time()

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            told.wall.append(time.perf_counter() - began[0])
            told.cpu.append(time.process_time() - began[1])

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *arguments: Any) -> Any:
            return SequentialSampler(self.train_dataset)

        def training_step(self, *arguments: Any, **more: Any) -> Any:
            loss = super().training_step(*arguments, **more)
            told.losses[self.state.global_step] += float(loss)
            return loss

    config = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=case.micro,
        gradient_accumulation_steps=case.batch // case.micro,
        max_steps=case.steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=spec.beta1,
        adam_beta2=spec.beta2,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=case.checkpointing,
        packing=case.packing,
        max_length=case.length,
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    model = load_with_rows(inputs["model"].local(), spec, extra)
    tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
    trained = spec.method.apply(model, spec.seed)
    trainer = Trainer(
        trained, config, train_dataset=Dataset.from_list(data), processing_class=tokenizer, callbacks=[Steps()]
    )
    trainer.train()
    told.trained = peak_bytes()
    return told


def ask(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    from pipelines.stages.training.launch import CPU_MEMORY

    command = [sys.executable, __file__, arguments.alpaca, "--case", json.dumps(asdict(case))]
    command += ["--store", arguments.store, "--threads", str(arguments.threads)]
    environment = os.environ | ({"PYTHONPATH": arguments.trl} if case.side == "trl" else CPU_MEMORY)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{case} ended with {done.returncode}: {done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    told = f"{found['rate']:,.1f} tokens a second, {found['cpu_rate']:,.1f} of CPU time, {found['padding']:.0%} padding"
    print(f"{case}: {told}; {found['trained'] / 1e6:,.0f} MB, {found['ended'] / 1e6:,.0f} at the end", flush=True)
    return found


def losses(arguments: argparse.Namespace) -> None:
    for packing, length in ((False, 256), (True, 128)):
        case = Case("ours", STEPS_OF_LOSSES, packing=packing, length=length, batch=2, micro=1 + (not packing))
        a, b = ask(case, arguments)["losses"], ask(replace(case, side="trl"), arguments)["losses"]
        worst = max(abs(one - other) / other for one, other in zip(a, b, strict=True))
        print(f"{'packed' if packing else 'padded'}: {len(a)} losses, first {a[0]:.6f} and {b[0]:.6f}, last")
        print(f"  {a[-1]:.6f} and {b[-1]:.6f}; largest relative difference {worst:.1e} (bar: 1e-4)", flush=True)


def ratios(found: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """The median over the rounds of one side's rates in the other's, by both clocks, and of its memory."""
    names = {"rate": "times the tokens a second", "cpu_rate": "by CPU time", "trained": "of the memory"}
    medians = {n: statistics.median(one[n] / other[n] for one, other in found) for n in names}
    return ", ".join(f"{medians[name]:.2f} {words}" for name, words in names.items())


def speed(arguments: argparse.Namespace) -> None:
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {"one row": [], "all rows": []}
    for _ in range(arguments.rounds):
        case = Case("trl", arguments.steps, batch=2, micro=2)
        one, mine, together = (ask(c, arguments) for c in (replace(case, micro=1), replace(case, side="ours"), case))
        found["one row"].append((mine, one))
        found["all rows"].append((mine, together))
    for name, pairs in found.items():
        print(f"LoRA, packed, against TRL with {name} a micro-batch: {ratios(pairs)} (bar: 1.15)", flush=True)


def packing(arguments: argparse.Namespace) -> None:
    """An epoch against one of padded batches of about as many conversations as two packed rows hold."""
    found = []
    for _ in range(arguments.rounds):
        packed = ask(Case("ours", 0, batch=2, micro=2, conversations=EPOCH), arguments)
        padded = ask(Case("ours", 0, packing=False, batch=8, micro=8, conversations=EPOCH), arguments)
        found.append((packed, padded))
    print(f"packed against padded: {ratios(found)} (bar: 1.8)", flush=True)


def memory(arguments: argparse.Namespace) -> None:
    for case in (Case("ours", 2, length=256, batch=1, micro=1), Case("ours", 2, batch=1, micro=1, checkpointing=True)):
        found = {method: ask(replace(case, method=method), arguments) for method in METHODS}
        for method in ("lora", "qlora"):
            shares = " and ".join(f"{found[method][n] / found['full'][n]:.1%}" for n in ("trained", "ended"))
            print(f"{method}: {shares} of full fine-tuning's peak, to the last step and to the end (bar: 45 %)")


WHAT = {"losses": losses, "speed": speed, "packing": packing, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("alpaca")
    parser.add_argument("--trl", default="")
    parser.add_argument("--only", choices=list(WHAT))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--store", default="")
    parser.add_argument("--case", default="")
    arguments = parser.parse_args()
    if arguments.case:
        case = Case(**json.loads(arguments.case))
        print(json.dumps(run_side(case, Store(arguments.store), arguments.alpaca, arguments.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.store = arguments.store or folder
        for name, measure in WHAT.items():
            if arguments.only in (None, name):
                measure(arguments)


if __name__ == "__main__":
    main()
