"""Peak memory of a corpus job at several sizes: reading, cleaning and de-duplication of JSON lines, 2 workers.

    python benchmarks/corpus_memory.py 0.2 1 5     # GB of text

The text is generated (words drawn by a seeded generator), in files of 20 MB. Memory is what the job's processes hold
for themselves alone (unique set size, every 0.5 s, the largest sum), Ray's own processes included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parent.parent
FILE_BYTES = 20_000_000
DOCUMENT_WORDS = 500
JOB = """
import sys
from cluster.core.build import build
from pipelines.specs import CorpusSpec, GopherQuality, JsonLinesSource, NotEmpty, ScalingSpec
from cluster.core.storage.store import Store

sources, rules = (JsonLinesSource(path=sys.argv[1]),), (NotEmpty(), GopherQuality())
spec = CorpusSpec(sources=sources, rules=rules, near_duplicates="drop")
corpus = build(spec, {}, store=Store(sys.argv[2]), name="bench", scaling=ScalingSpec(data_workers=2))
print(corpus.metrics["flow"])
"""


def write_text(folder: Path, gigabytes: float) -> None:
    """Documents of 500 words out of 50,000."""
    draw = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(draw.choice(letters, size)) for size in draw.integers(2, 9, 50_000)])
    words[:2000:10], words[5:2000:10] = "the", "of"  # or Gopher's rules take it for no language
    written, number = 0, 0
    while written < gigabytes * 1e9:
        with (folder / f"{number:05d}.jsonl").open("w") as file:
            size = 0
            while size < FILE_BYTES:
                text = " ".join(words[(50_000 * draw.random(DOCUMENT_WORDS) ** 3).astype(int)])
                size += file.write(json.dumps({"text": text}) + "\n")
        written += size
        number += 1


def measure(source: Path, store: Path) -> tuple[float, float]:
    """Seconds, and the peak of the processes' own memory in bytes."""
    clock, peak = time.monotonic(), 0
    job = subprocess.Popen([sys.executable, "-c", JOB, str(source), str(store)], cwd=ROOT)
    tree = psutil.Process(job.pid)
    while job.poll() is None:
        held = 0
        for process in (tree, *tree.children(recursive=True)):
            try:
                held += process.memory_full_info().uss
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        peak = max(peak, held)
        try:
            job.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
    if job.returncode:
        sys.exit(f"the job failed: {job.returncode}")
    return time.monotonic() - clock, peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("gigabytes", type=float, nargs="+")
    for gigabytes in parser.parse_args().gigabytes:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            source.mkdir()
            write_text(source, gigabytes)
            seconds, peak = measure(source, Path(folder) / "store")
            print(
                f"{gigabytes:g} GB: {seconds:.0f} s, {1000 * gigabytes / seconds:.1f} MB/s, peak {peak / 1e9:.2f} GB",
                flush=True,
            )


if __name__ == "__main__":
    main()
