"""Trains cases in rounds of gloo ranks, some of which are killed or stopped: `python rounds.py ROOT CASES.json`.

A case is a spec and its rounds, each with its scaling, and where it ends: `stop_at` a step (saving first, as at
SIGTERM) or `kill_at` one (SIGKILL, of one rank, in the middle of whatever the others and the writing of checkpoints are
at). All rounds of a case go on in one output. Ranks are forked from one process, which has imported everything.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import bitsandbytes.functional  # noqa: F401 (as the next: imported once, and not by every rank)
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException
from transformers.models.llama import modeling_llama  # noqa: F401

from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import ScalingSpec
from pipelines.stages.training import worker
from pipelines.stages.training.batches import plan_batches, pretrain_steps
from pipelines.stages.training.interruption import Request, Undisturbed
from pipelines.stages.training.sources import TokenBatches
from tests.training.tiny import LENGTH, pretrain


class EndAt(Undisturbed):
    """Ends a run after so many steps of the whole run."""

    def __init__(self, round_: dict[str, Any], output: Location, rank: int) -> None:
        self.round, self.output, self.rank = round_, output, rank
        self.step = 0

    def asked(self) -> Request:
        if self.step == self.round.get("kill_at") and self.rank == self.round.get("victim", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return Request(save=False, stop=self.step == self.round.get("stop_at"))


def rank_main(rank: int, root: str, name: str, case: dict[str, Any], number: int) -> None:
    round_ = case["rounds"][number]
    ranks = round_["scaling"]["num_workers"]
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    dist.init_process_group(
        "gloo", init_method=f"file://{root}/{name}-{number}.rendezvous", rank=rank, world_size=ranks
    )
    spec, scaling = pretrain(**case["spec"]), ScalingSpec(log_every=1, **round_["scaling"])
    output = Location(f"{root}/{name}")
    plan = plan_batches(spec, scaling, pretrain_steps(spec, LENGTH))
    end = EndAt(round_, output, rank)
    reads = Path(root, name, f"reads-{number}-{rank}.jsonl")

    class Recorded(TokenBatches):
        def share(self, step: int, engine: Any = None) -> Any:
            end.step = step + 1
            held = sum(parameter.numel() for parameter in engine.engine.module.parameters())
            Path(root, name, f"parameters-{rank}").write_text(str(held))
            found = super().share(step, engine)
            sequences = [sequence.numpy().tobytes() for batch in found.micro_batches for sequence in batch]
            with reads.open("a") as file:
                file.write(json.dumps([step, [hashlib.sha1(one).hexdigest() for one in sequences]]) + "\n")
            return found

    worker.TokenBatches = Recorded
    inputs = {"tokens": Store(f"{root}/store").list("tokens")[0]}
    recipe = "pipelines.stages.training.worker:pretrain"
    figures = worker.train(worker.Work(recipe, spec, scaling, plan, inputs, output, output / ".train", name), end)
    if rank == 0 and figures is not None:
        output.write_bytes("figures.json", json.dumps(figures).encode())
    dist.destroy_process_group()


def main(root: str, cases: dict[str, dict[str, Any]]) -> None:
    for name, case in cases.items():
        Path(root, name).mkdir()
        for number, round_ in enumerate(case["rounds"]):
            arguments = (root, name, case, number)
            try:
                mp.start_processes(rank_main, arguments, round_["scaling"]["num_workers"], start_method="fork")
            except ProcessException:  # the one that was killed, or the one that lost it
                if "kill_at" not in round_:
                    raise


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
