"""Trains a list of cases on gloo ranks without Ray: `python group.py ROOT RANKS CASES.json` (run by test_layouts).

Ranks are forked from one process, which has imported everything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import bitsandbytes.functional  # noqa: F401 (as the next: imported once, and not by every rank)
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers.models.llama import modeling_llama  # noqa: F401

from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import ScalingSpec
from pipelines.stages.training.batches import plan_batches, pretrain_steps
from pipelines.stages.training.interruption import Request, Undisturbed
from pipelines.stages.training.worker import Work, train
from tests.training.tiny import LENGTH, pretrain


class StopAt(Undisturbed):
    """Ends a run after so many of its steps, as SIGTERM of the driver does."""

    def __init__(self, step: int) -> None:
        self.left = step

    def asked(self) -> Request:
        self.left -= 1
        return Request(save=False, stop=not self.left)


def rank_main(rank: int, ranks: int, root: str, cases: dict[str, dict]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous-{ranks}", rank=rank, world_size=ranks)
    store = Store(f"{root}/store")
    tokens = store.list("tokens")[0]
    for name, case in cases.items():
        spec = pretrain(**case["spec"])
        scaling = ScalingSpec(**{"num_workers": ranks, "log_every": 1} | case["scaling"])
        output = Location(f"{root}/{name}")
        plan = plan_batches(spec, scaling, pretrain_steps(spec, LENGTH))
        recipe = case.get("recipe", "pipelines.stages.training.worker:pretrain")
        inputs = {"tokens": tokens} | {n: store.get("tokens", print_) for n, print_ in case.get("inputs", {}).items()}
        work = Work(recipe, spec, scaling, plan, inputs, output, output / ".train", name)
        if stop_at := case.get("stop_at"):
            assert train(work, StopAt(stop_at)) is None
        figures = train(work)
        if rank == 0:
            output.write_bytes("figures.json", json.dumps(figures).encode())
    dist.destroy_process_group()


if __name__ == "__main__":
    root, ranks = sys.argv[1], int(sys.argv[2])
    arguments = (ranks, root, json.loads(Path(sys.argv[3]).read_text()))
    mp.start_processes(rank_main, arguments, ranks, start_method="fork")
