"""Weights through Ray's object store: one copy that readers map, against tensors as Ray pickles them by itself.

Seconds to put a model's weights there, and for a process of the machine to have them and add each up once, in turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray

from pipelines.stages.generation.engine import checksum
from pipelines.stages.generation.shared import read, share
from pipelines.stages.training.models.models import build_model, configuration


@ray.remote
class Reader:
    def take(self, weights: Any, shared: bool) -> tuple[float, int]:
        """When it has them, and their checksum."""
        found = checksum((read(weights) if shared else weights).values())
        return time.time(), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llama-135m")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = configuration(options.model, {}, vocab_size=49152, sequence_length=512, eos_token_id=0)
    weights = {name: parameter.detach() for name, parameter in build_model(config, 0).named_parameters()}
    size = sum(weight.nbytes for weight in weights.values())
    ray.init(address="local", num_cpus=1, object_store_memory=4 * size, include_dashboard=False)
    reader = Reader.remote()
    expected, seconds = checksum(weights.values()), {True: [], False: []}
    for _ in range(options.rounds + 1):
        for shared in (True, False):
            began = time.time()
            reference = ray.put(share(weights) if shared else weights)
            put = time.time()
            ended, found = ray.get(reader.take.remote(reference, shared))
            assert found == expected
            seconds[shared].append((put - began, ended - put))
            del reference
    ray.shutdown()
    for shared, name in ((True, "in place"), (False, "pickled")):
        puts, takes = zip(*seconds[shared][1:], strict=True)  # the first warms up
        print(f"{name}: {size / 1e6:.0f} MB put in {median(puts):.3f} s, read and added up in {median(takes):.3f} s")


if __name__ == "__main__":
    main()
