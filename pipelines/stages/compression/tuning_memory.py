"""What tuning takes of memory, measured: a process of its own loads a model, adapts it, and takes two steps.

`python -m pipelines.stages.compression.tuning_memory FOLDER METHOD TOKENS`, where METHOD is `lora`, `int8` or `nf4`
(the last two: low-rank updates over packed weights), prints the peak of its resident memory, and what it was before the
model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

METHODS = ("lora", "int8", "nf4")
STEPS = 2


def measure(folder: Path, method: str, tokens: int) -> dict[str, int]:
    """`peak_bytes` of a process that tunes on one sequence of so many tokens, `before_bytes` of it without a model.

    In bfloat16, by adapters of rank 8 in all linear layers, and AdamW.
    """
    command = [sys.executable, "-m", __name__, str(folder), method, str(tokens)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"tuning by {method} failed in a process of its own:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _peak_bytes() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _tune(folder: str, method: str, tokens: int) -> dict[str, int]:
    import bitsandbytes  # noqa: F401  # part of what is there before
    import peft  # noqa: F401
    import torch
    from transformers import AutoModelForCausalLM

    from pipelines.stages.tuning.methods import Lora, QLora

    torch.manual_seed(0)
    before = _peak_bytes()
    chosen: Any = Lora(rank=8) if method == "lora" else QLora(rank=8, weights=method)  # type: ignore[arg-type]
    options = {"dtype": torch.bfloat16, **chosen.load_options("bf16")}
    model = chosen.apply(AutoModelForCausalLM.from_pretrained(folder, **options), 0)
    optimizer = torch.optim.AdamW(weight for weight in model.parameters() if weight.requires_grad)
    ids = torch.randint(0, model.config.vocab_size, (1, tokens))
    for _ in range(STEPS):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {"before_bytes": before, "peak_bytes": _peak_bytes()}


if __name__ == "__main__":
    print(json.dumps(_tune(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
