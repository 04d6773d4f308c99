"""nanoGPT's CPU setting on tinyshakespeare against its published validation loss, 1.88.

    python benchmarks/nanogpt.py INPUT_TXT [--workers 1] [--threads 2] [--seed 0] [--optimizer muon]

INPUT_TXT is char-rnn's tinyshakespeare (1,115,394 bytes). The first 90 % of its characters are to train on, the last
10 % to validate on, as in nanoGPT's prepare.py. nanoGPT's figure is an estimate on 20 batches of 12 random windows of
64 characters; ours is the mean over all windows of the validation text, which meet and do not overlap.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.core.build import build
from cluster.core.graph import Step
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.shakespeare import shakespeare

PUBLISHED = 1.88
TRAIN_FRACTION = 0.9


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("input", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--optimizer", default="adamw", help="adamw is nanoGPT's")
    options = parser.parse_args()
    text = options.input.read_text()
    cut = int(len(text) * TRAIN_FRACTION)
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for split, part in (("train", text[:cut]), ("heldout", text[cut:])):
            path = Path(folder) / f"{split}.txt"
            path.write_text(part)
            sources.append({"reader": "text", "path": str(path), "assign": split})
        scaling = {"num_workers": options.workers, "cpus_per_worker": options.threads, "data_workers": 1}
        store = Store(Path(folder) / "store")
        pretrain = {"seed": options.seed, "optimizer": options.optimizer}
        changes = {"corpus": {"sources": sources}, "pretrain": pretrain, "scaling": scaling}
        graph = shakespeare.graph(store, changes)
        built: dict[str, Artifact] = {}
        for step in graph.steps:
            began = time.monotonic()
            inputs = {name: built[source.key] for name, source in step.inputs.items() if isinstance(source, Step)}
            built[step.key] = build(step.spec, inputs, store=store, scaling=graph.scaling, name="nanogpt")
            print(f"{step.key}: {time.monotonic() - began:.0f} s", flush=True)
        metrics = built["pretrain"].metrics
        windows = built["tokens"].metrics["heldout_tokens"] // 64
        print(
            f"{metrics['parameters']:,} parameters, {metrics['steps']} steps: validation loss "
            f"{metrics['validation_loss']:.4f} over {windows} windows (nanoGPT publishes {PUBLISHED})"
        )


if __name__ == "__main__":
    main()
