"""Time and memory of the conversations stage: Alpaca-shaped records read, checked, split, compared and written.

    python benchmarks/conversations.py 100000 1000000      # records

The records are made (words drawn by a seeded generator), with the lengths of Stanford Alpaca: a quarter of the answers
of a few words, the others of 10 to 100; two in five have an input; one in a hundred is there twice and one in a hundred
has no answer. They lie in one JSON array, as Alpaca does. Memory is the peak of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
JOB = """
import resource, sys, time
from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec

begun = time.monotonic()
made = build(ConversationsSpec(source="file", path=sys.argv[1]), {}, store=Store(sys.argv[2]), name="bench")
used = resource.getrusage(resource.RUSAGE_SELF)
seconds, worked = time.monotonic() - begun, used.ru_utime + used.ru_stime
print(f"{seconds:.1f} s ({worked:.1f} s of one core), peak {used.ru_maxrss / 1e6:.2f} GB: {made.metrics['flow']}")
"""


def write_records(path: Path, count: int) -> None:
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(draw.choice(letters, size)) for size in draw.integers(2, 9, 50_000)])

    pool = words[(len(words) * draw.random(1 << 22) ** 3).astype(int)].tolist()

    def text(length: int) -> str:
        start = random.randrange(len(pool) - length)
        return " ".join(pool[start : start + length])

    random, last = Random(0), {}
    with path.open("w") as file:
        file.write("[\n")
        for number in range(count):
            answer = random.randrange(1, 5) if random.random() < 0.25 else random.randrange(10, 100)
            record = {
                "instruction": text(random.randrange(5, 20)),
                "input": text(random.randrange(3, 30)) if random.random() < 0.4 else "",
                "output": "" if number % 100 == 50 else text(answer),
            }
            last = last if number % 100 == 99 else record
            file.write(("    " if not number else ",\n    ") + json.dumps(last, indent=4))
        file.write("\n]\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("records", type=int, nargs="+")
    for count in parser.parse_args().records:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.json"
            write_records(path, count)
            print(f"{count:,} records, {path.stat().st_size / 1e6:.0f} MB:", end=" ", flush=True)
            begun = time.monotonic()
            command = [sys.executable, "-c", JOB, str(path), str(Path(folder) / "store")]
            subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
            print(f"    with the start of Python {time.monotonic() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
