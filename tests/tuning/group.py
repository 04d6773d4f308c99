"""Tunes a list of cases on gloo ranks without Ray: run by test_layouts as

`python -m tests.tuning.group ROOT RANKS CASES.json`. Ranks are forked from one process, which has imported everything.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["DS_ACCELERATOR"] = "cpu"

import bitsandbytes  # noqa: F401 (as the next: imported once, and not by every rank)
import peft  # noqa: F401
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoTokenizer
from transformers.models.llama import modeling_llama  # noqa: F401

from cluster.core.encoding import encode
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import ScalingSpec
from pipelines.stages.training.batches import plan_batches
from pipelines.stages.training.worker import Work, train
from pipelines.stages.tuning.conversations import read_conversations
from pipelines.stages.tuning.sequences import Sequences
from pipelines.stages.tuning.templates import prepare
from tests.training.group import StopAt
from tests.tuning.tiny_sft import make_inputs, sft

STEPS = 8


def rank_main(rank: int, ranks: int, root: str, cases: dict[str, dict]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous-{ranks}", rank=rank, world_size=ranks)
    inputs = make_inputs(Store(f"{root}/store"), Path(root))
    for name, case in cases.items():
        spec = sft(**case["spec"])
        scaling = ScalingSpec(num_workers=ranks, log_every=1, **case["scaling"])
        tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
        prepare(tokenizer, spec.template)
        output = Location(f"{root}/{name}")
        if rank == 0:
            for split in ("train", "heldout"):
                rows = read_conversations(inputs["conversations"].local(), split)
                found = Sequences.collect(encode(tokenizer, row["messages"]) for row in rows)
                (found.packed(spec.sequence_length) if spec.packing else found).save(output, f"{split}.npz")
        dist.barrier()
        extra = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "told": {}}
        plan = plan_batches(spec, scaling, STEPS)
        work = Work("pipelines.stages.tuning.recipe:sft", spec, scaling, plan, inputs, output, output, name, extra)
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
