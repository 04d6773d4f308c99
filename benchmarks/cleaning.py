"""The whole cleaning and near-dedup pipeline against datatrove's local executor, 2 workers each, on the same documents.

    python benchmarks/cleaning.py DATA --rival PYTHON [--megabytes 60]

PYTHON has datatrove==0.10.1, spacy, tokenizers and xxhash<4. Reads the English documents below DATA (the shared test
data), written again and again with a few words changed until there are enough, as JSON lines in 16 files. Both run
Gopher's repetition and quality filters, C4's and FineWeb's, then MinHash with 14 bands of 8 over runs of 5 words. Says
how long each took and how many documents each kept, and compares the decision on every document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = 16

RIVAL = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

if __name__ == "__main__":
    source, out = sys.argv[1:]
    minhash = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))
    stages = [
        [
            JsonlReader(source),
            GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(), FineWebQualityFilter(),
            JsonlWriter(f"{out}/filtered", compression=None),
        ],
        [JsonlReader(f"{out}/filtered"), MinhashDedupSignature(output_folder=f"{out}/signatures", config=minhash)],
        [MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=minhash)],
        [MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config=minhash)],
        [
            JsonlReader(f"{out}/filtered"), MinhashDedupFilter(f"{out}/remove"),
            JsonlWriter(f"{out}/kept", compression=None),
        ],
    ]
    for number, (stage, tasks) in enumerate(zip(stages, (16, 16, 14, 1, 16))):
        LocalPipelineExecutor(pipeline=stage, tasks=tasks, workers=2, logging_dir=f"{out}/logs/{number}").run()
"""


def write_documents(data: Path, into: Path, megabytes: int) -> int:
    """Write the documents, and copies of them with every tenth word changed; the number of bytes of text."""
    from datatrove_rules import documents

    originals = [text for _, text in documents(data)]
    draw, size, number = random.Random(0), 0, 0
    into.mkdir()
    files = [(into / f"{n:02d}.jsonl").open("w") for n in range(FILES)]
    while size < megabytes * 1_000_000:
        for text in originals:
            if number >= len(originals):
                words = text.split(" ")
                for at in draw.sample(range(len(words)), len(words) // 10):
                    words[at] = words[draw.randrange(len(words))]
                text = " ".join(words)
            files[number % FILES].write(json.dumps({"id": str(number), "text": text}) + "\n")
            size += len(text.encode())
            number += 1
            if size >= megabytes * 1_000_000:
                break
    for file in files:
        file.close()
    return size


def ours(source: Path, out: Path) -> set[str]:
    """Build the corpus; the ids that it kept."""
    import pyarrow.parquet as pq

    from cluster.core.build import build
    from cluster.core.storage.store import Store
    from pipelines.specs import C4, CorpusSpec, FineWeb, GopherQuality, GopherRepetition, JsonLinesSource, ScalingSpec

    spec = CorpusSpec(
        sources=(JsonLinesSource(path=str(source), id_field="id"),),
        rules=(GopherRepetition(), GopherQuality(), C4(terminal_marks=(".", "?", "!", '"', "'")), FineWeb()),
        near_duplicates="drop",
        part_bytes=1_000_000,
    )
    corpus = build(spec, {}, store=Store(out), name="bench", scaling=ScalingSpec(data_workers=2))
    parts = [*corpus.local().glob("train/*.parquet"), *corpus.local().glob("heldout/*.parquet")]
    return {row.rpartition("#")[2] for part in parts for row in pq.read_table(part, columns=["id"])["id"].to_pylist()}


def trace(source: Path, alone: set[str], others: set[str]) -> str:
    """Why documents that one side kept alone are no disagreement about a rule: what the other side kept instead.

    The similarity is Jaccard's, of runs of 5 words, to the nearest document that the other side kept; MinHash with 14
    bands of 8 finds a pair of similarity s with probability 1 - (1 - s^8)^14.
    """
    import numpy as np

    from pipelines.stages.corpus.dedup.minhash import shingles

    records = (json.loads(line) for path in sorted(source.glob("*.jsonl")) for line in path.open())
    found = {r["id"]: np.unique(shingles(r["text"], 5)) for r in records if r["id"] in alone | others}
    names = sorted(others)
    sizes = np.array([len(found[name]) for name in names])
    pool, starts = np.concatenate([found[name] for name in names]), np.concatenate([[0], np.cumsum(sizes)[:-1]])
    nearest = []
    for name in sorted(alone):
        mine = found[name]
        at = np.minimum(np.searchsorted(mine, pool), len(mine) - 1)
        shared = np.add.reduceat((mine[at] == pool).astype(np.int64), starts)
        nearest.append(float((shared / (len(mine) + sizes - shared)).max()))
    if not nearest:
        return "none"
    chances = [1 - (1 - s**8) ** 14 for s in nearest]
    return (
        f"similarity to the nearest that the other kept: {min(nearest):.2f} to {max(nearest):.2f}, "
        f"median {np.median(nearest):.2f}; found by MinHash with probability {min(chances):.2f} to {max(chances):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--rival", required=True)
    parser.add_argument("--megabytes", type=int, default=60)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        size = write_documents(arguments.data, source, arguments.megabytes)
        clock = time.monotonic()
        kept = ours(source, Path(folder) / "ours")
        our_seconds = time.monotonic() - clock
        script = Path(folder) / "rival.py"
        script.write_text(RIVAL)
        clock = time.monotonic()
        out = Path(folder) / "theirs"
        command = [arguments.rival, str(script), str(source), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode:
            sys.exit(done.stderr[-3000:])
        their_seconds = time.monotonic() - clock
        theirs = {json.loads(line)["id"] for path in (out / "kept").rglob("*.jsonl") for line in path.open()}
        filtered = {json.loads(line)["id"] for path in (out / "filtered").rglob("*.jsonl") for line in path.open()}
        traces = {
            "us": trace(source, kept - theirs, theirs),
            "datatrove": trace(source, theirs - kept, kept),
        }
    print(f"{size / 1e6:.0f} MB, start of Ray and of Python included on both sides")
    print(f"ours {our_seconds:.1f} s, datatrove {their_seconds:.1f} s: {their_seconds / our_seconds:.2f} times")
    print(f"kept: ours {len(kept)}, datatrove {len(theirs)} (of {len(filtered)} that its filters kept)")
    print(f"kept by both {len(kept & theirs)}, by us only {len(kept - theirs)}, by datatrove only {len(theirs - kept)}")
    print(f"of those kept by us only, datatrove's filters rejected {len(kept - filtered)}, its MinHash the others")
    for who, told in traces.items():
        print(f"kept by {who} only: {told}")


if __name__ == "__main__":
    main()
