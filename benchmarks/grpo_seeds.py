"""Does GRPO raise the share of parsing answers with every seed? Run after `ctl demo`, on its store.

For each seed the demo's RLHF step is run on the demo's SFT and reward models. Share and KL are of held-out requests,
from the SFT model to the last weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from cluster.core.build import build
from cluster.core.graph import Step
from cluster.core.storage.store import Store
from pipelines.quickstart import quickstart

SEEDS = (0, 1, 2)


def main() -> None:
    store = Store()
    graph = quickstart.graph(store)
    step = graph.step("rlhf")
    inputs = {name: store.get(i.kind, i.fingerprint) for name, i in step.inputs.items() if isinstance(i, Step)}
    for seed in SEEDS:
        spec = msgspec.structs.replace(step.spec, seed=seed)
        found = build(spec, inputs, store=store, scaling=graph.scaling, name=f"seed-{seed}").metrics
        first, last = found["first_heldout_python_parses"], found["heldout_python_parses"]
        print(
            f"seed {seed}: {first:.3f} -> {last:.3f}, {100 * (last - first):+.1f} points; "
            f"KL {found['heldout_kl']:.3f} (bound {spec.max_kl})",
            flush=True,
        )


if __name__ == "__main__":
    main()
