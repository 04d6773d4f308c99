"""Tunes on preferences on one rank without Ray, whole and stopped in between, asks a reference twice: by test_dpo, as

`python -m tests.alignment.offline_group ROOT CASES.json`; inputs are told by role, kind, store and fingerprint."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from cluster.core.context import Context
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.specs import DpoSpec, ScalingSpec
from tests.training.group import StopAt


def main(root: str, cases: dict[str, dict[str, Any]]) -> None:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    import torch.distributed as dist
    from transformers import AutoTokenizer

    from cluster.core.specs.spec import convert
    from pipelines.stages.alignment.offline.stage import encode_split
    from pipelines.stages.training.batches import plan_batches
    from pipelines.stages.training.worker import Work, train
    from pipelines.stages.tuning.templates import prepare

    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=0, world_size=1)
    for name, case in cases.items():
        inputs = {role: Store(place).get(kind, print_) for role, kind, place, print_ in case["inputs"]}
        spec = convert(case["spec"], DpoSpec, "dpo")
        scaling = ScalingSpec(num_workers=1, log_every=1, **case["scaling"])
        tokenizer = AutoTokenizer.from_pretrained(inputs["model"].local())
        prepare(tokenizer, spec.template)
        output = Location(f"{root}/{name}")
        ctx = Context(spec, inputs, output, scaling, name, "")
        for split in ("train", "heldout"):
            encode_split(ctx, tokenizer, split, spec.sequence_length)[0].save(output, split)
        extra = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "told": {}}
        plan = plan_batches(spec, scaling, case["steps"])
        recipe = "pipelines.stages.alignment.offline.stage:recipe"
        work = Work(recipe, spec, scaling, plan, inputs, output, output, name, extra)
        if stop_at := case.get("stop_at"):
            assert train(work, StopAt(stop_at)) is None
        output.write_bytes("figures.json", json.dumps(train(work)).encode())
    ask_twice(Location(f"{root}/asked"), inputs["model"], Location(f"{root}/{name}"))
    dist.destroy_process_group()


def ask_twice(state: Location, model: Artifact, made: Location) -> None:
    """Ask a model about the held-out answers of a case; then again, where one batch is missing and another is not what
    the model would say, as if written by an attempt that was killed."""
    from pipelines.stages.alignment.offline import reference
    from pipelines.stages.tuning.sequences import Sequences

    Sequences.load(made, "heldout.npz").save(state, reference.ASKED_FILE)
    asked = reference.Asked(model, state, "fp32", 1)
    reference.ask(asked, None)
    names = sorted(name for name in state.walk() if name.startswith("part-"))
    before = {name: state.read_bytes(name) for name in names}
    state.remove(names[1])
    state.write_bytes(names[0], b"of before")
    reference.ask(asked, None)
    after = {name: state.read_bytes(name) for name in names}
    assert after == before | {names[0]: b"of before"} and len(names) > 2


if __name__ == "__main__":
    main(sys.argv[1], json.loads(Path(sys.argv[2]).read_text()))
