"""The tokens stage against `datasets.map(batched=True, num_proc=2)`: the same text, the same tokenizer, the same ids.

    python -m venv /tmp/datasets && /tmp/datasets/bin/pip install datasets==5.2.0 tokenizers==0.23.3
    python benchmarks/tokenizing.py --rival /tmp/datasets/bin/python --megabytes 1000

The text is this Python's sources and, where it is there, `../shared/data`, repeated as often as the size takes; the
tokenizer a byte-level BPE of 32,768 pieces trained on it. Ours is the whole stage: read Parquet, encode, verify, pack,
write, digest. The rival reads Parquet and maps; it packs nothing. The start, Ray's and its workers' or the rival's
imports, is given apart. Memory is the peak of the whole process tree, a page that processes share counted once (PSS),
at a quarter of the size and at the size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.stages.tokens.tokenizers.tokenizer import END_OF_TEXT, train

ROOT = Path(__file__).resolve().parents[1]
VOCAB_SIZE = 32_768
TRAINING_BYTES = 30_000_000
WORKERS = 2
PART_BYTES = 32_000_000
MAX_FILE_BYTES = 1_000_000  # as in a corpus, where longer files are rejected
SUFFIXES = {".txt", ".json", ".jsonl", ".xml", ".nxml", ".csv", ".tsv", ".md"}
READY, DONE = "ready", "done"

# Runs under the other Python, which has `datasets` and nothing of ours.
RIVAL = """
import sys, time
import numpy as np
from datasets import Features, List, Value, load_dataset
from tokenizers import Tokenizer

corpus, tokenizer_file, out = sys.argv[1:]
tokenizer = Tokenizer.from_file(tokenizer_file)
tokenizer.encode_special_tokens = True
end = tokenizer.token_to_id("<|endoftext|>")

def encode(batch):
    found = tokenizer.encode_batch_fast(batch["text"], add_special_tokens=False)
    return {"input_ids": [[*encoding.ids, end] for encoding in found]}

if __name__ == "__main__":
    print("ready", flush=True)
    started = time.perf_counter()
    data = load_dataset("parquet", data_files=f"{corpus}/train/*.parquet", split="train", cache_dir=f"{out}/cache")
    data = data.map(
        encode, batched=True, num_proc=2, remove_columns=data.column_names,
        features=Features({"input_ids": List(Value("uint16"))}),
    )
    print("done", time.perf_counter() - started, flush=True)
    with open(f"{out}/ids.bin", "wb") as sink:
        for batch in data.data.to_batches():
            sink.write(batch.column("input_ids").flatten().to_numpy().astype("<u2").tobytes())
"""


def texts() -> Iterator[str]:
    """Real text for ever, from the beginning again when it ends."""
    folders = [Path(sysconfig.get_path(name)) for name in ("purelib", "stdlib")]
    while True:
        for folder, suffixes in [
            *((folder, {".py"}) for folder in folders),
            (ROOT.parent / "shared" / "data", SUFFIXES),
        ]:
            for path in sorted(folder.rglob("*")):
                if path.suffix in suffixes and path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
                    try:
                        yield path.read_text("utf-8")
                    except UnicodeDecodeError:
                        continue


def make_corpus(folder: Path, size_bytes: int) -> None:
    """Parts of `train` of that size together, and a small `heldout`."""
    source = texts()
    for split, wanted in (("train", size_bytes), ("heldout", 100_000)):
        (folder / split).mkdir(parents=True)
        number = 0
        while wanted > 0:
            rows, size = [], 0
            while size < min(PART_BYTES, wanted):
                rows.append(next(source))
                size += len(rows[-1].encode())
            path = folder / split / f"part-{number:05d}.parquet"
            table = pa.table({"text": rows, "source": ["here"] * len(rows)})
            pq.write_table(table, path, compression="zstd", row_group_size=1024)
            wanted, number = wanted - size, number + 1


def make_tokenizer(folder: Path) -> None:
    def sample() -> Iterator[str]:
        given = 0
        for number, text in enumerate(texts()):
            if given >= TRAINING_BYTES:
                return
            if number % 8 == 0:
                given += len(text.encode())
                yield text

    folder.mkdir()
    train(sample(), VOCAB_SIZE).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END_OF_TEXT}))


def busy(item: dict[str, Any]) -> dict[str, Any]:
    """Long enough that each item takes a worker of its own."""
    time.sleep(1)
    return item


def stage(corpus: str, tokenizer: str, out: str) -> None:
    """Ours, in a process of its own."""
    from cluster.control.runtime import connect, disconnect
    from cluster.core.context import Context
    from cluster.core.storage.artifact import Artifact, Code, Record
    from cluster.core.storage.location import Location
    from cluster.core.storage.store import Store
    from pipelines.specs import ScalingSpec, TokensSpec
    from pipelines.stages.ordered import ordered_map
    from pipelines.stages.tokens.stage import build

    def artifact(kind: str, folder: str) -> Artifact:
        record = Record(
            kind=kind, name="bench", fingerprint="0" * 64, revision=1, spec={}, parents={}, scaling={},
            code=Code("", ""), versions={}, started_at="", duration_seconds=0.0, metrics={}, files={},
        )  # fmt: skip
        return Artifact(record, Location(folder), Store(folder))

    scaling = ScalingSpec(data_workers=WORKERS)
    inputs = {"corpus": artifact("corpus", corpus), "tokenizer": artifact("tokenizer", tokenizer)}
    context = Context(TokensSpec(sequence_length=1024), inputs, Location(f"{out}/tokens"), scaling, "bench", "0" * 64)
    connect(scaling)
    list(ordered_map(busy, [{}] * WORKERS, WORKERS))  # its workers have started, too
    print(READY, flush=True)
    started = time.perf_counter()
    metrics = build(context)
    print(DONE, time.perf_counter() - started, flush=True)
    assert (metrics["encoder"], metrics["fallback_shards"]) == ("snaptokens", 0), metrics
    disconnect()


class Memory(threading.Thread):
    """The peak of the memory of a process and all its descendants, looked at every second: a look takes CPU time."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.peak_bytes = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(1):
            family = [self.process, *self.process.children(recursive=True)]
            self.peak_bytes = max(self.peak_bytes, sum(pss_bytes(process.pid) for process in family))


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def measure(command: list[str], corpus: Path) -> tuple[float, float, int]:
    """Seconds until `ready`, from there to `done` as the process tells them, and its peak memory meanwhile (bytes)."""
    for path in corpus.rglob("*.parquet"):
        path.read_bytes()  # both read from the page cache
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    begun = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        memory, start_seconds, seconds = Memory(process.pid), 0.0, 0.0
        for line in process.stdout:
            if line.startswith(READY):
                start_seconds = time.perf_counter() - begun
                memory.start()
            elif line.startswith(DONE):
                seconds = float(line.split()[1])
                memory.stopped.set()
    if process.returncode:
        raise SystemExit(f"{command[0]} ... failed")
    return start_seconds, seconds, memory.peak_bytes


def same_ids(ours: Path, theirs: Path) -> bool:
    sizes = 0
    with theirs.open("rb") as expected:
        for shard in sorted(ours.glob("shard-*.bin")):
            data = shard.read_bytes()
            sizes += len(data)
            if expected.read(len(data)) != data:
                return False
    return sizes == theirs.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", required=True, help="the Python of an environment with `datasets`")
    parser.add_argument("--megabytes", type=int, default=1000, help="text of the larger run")
    parser.add_argument("--work", type=Path, default=Path("/tmp/trunkline-tokenizing"), help="made anew")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    tokenizer = options.work / "tokenizer"
    make_tokenizer(tokenizer)
    for megabytes in (options.megabytes // 4, options.megabytes):
        folder = options.work / f"{megabytes}"
        corpus, ours, theirs = folder / "corpus", folder / "ours", folder / "theirs"
        make_corpus(corpus, megabytes * 1_000_000)
        ours.mkdir()
        theirs.mkdir()
        commands = {
            "ours": [sys.executable, __file__, "stage", str(corpus), str(tokenizer), str(ours)],
            "datasets": [options.rival, "-c", RIVAL, str(corpus), str(tokenizer / "tokenizer.json"), str(theirs)],
        }
        seconds = {}
        for name, command in commands.items():
            start_seconds, seconds[name], peak_bytes = measure(command, corpus)
            speed = megabytes / seconds[name]
            print(
                f"{megabytes} MB, {name}: {seconds[name]:.1f} s, {speed:.1f} MB/s, "
                f"peak {peak_bytes / 1e6:.0f} MB; start {start_seconds:.1f} s",
                flush=True,
            )
        same = same_ids(ours / "tokens" / "train", theirs / "ids.bin")
        tokens = np.memmap(theirs / "ids.bin", dtype="<u2", mode="r")
        print(
            f"{megabytes} MB: {seconds['datasets'] / seconds['ours']:.1f} times as fast; "
            f"{len(tokens):,} ids {'identical' if same else 'DIFFER'}",
            flush=True,
        )
        shutil.rmtree(folder)
        if not same:
            raise SystemExit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["stage"]:
        stage(*sys.argv[2:])
    else:
        main()
