"""SmolLM2-135M-Instruct on ARC-easy and WikiText-2 by `ctl run pipelines/benchmark.py`, and by lm-eval run directly.

    python benchmarks/evaluation.py ../shared/data [--limit N] [--max-length 2048]

The direct run is the command line of lm-eval on the exported folder, with task definitions of its own that are written
here: ARC-easy by open_lm's formatted prompts, WikiText by lm-eval's definition on pages split here. Its figures must
equal the stage's to the last digit that lm-eval writes (tests/evaluation/test_benchmark.py: on two questions).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cluster.core.build import build
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import BenchmarkSpec, PretrainedSpec

ARC = """
task: arc_direct
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{query}}Answer:"
doc_to_target: gold
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
WIKITEXT = """
include: %s
task: wikitext_direct
dataset_path: json
dataset_name: null
dataset_kwargs: {data_files: {test: %s}}
training_split: null
validation_split: null
"""
ARC_FILE = "eval/open_lm/arc_easy.jsonl"
WIKITEXT_FILE = "redpajama_like/wikitext-2/valid.txt"
METRICS = {"arc_easy": ("acc", "acc_norm"), "wikitext": ("word_perplexity", "byte_perplexity", "bits_per_byte")}


def spec_of(data: Path, limit: int, max_length: int, batch_size: int = 8) -> BenchmarkSpec:
    return BenchmarkSpec(
        tasks=tuple(METRICS), data=str(data), limit=limit, max_length=max_length, batch_size=batch_size
    )


def write_tasks(data: Path, folder: Path) -> None:
    """The direct run's definitions of both tasks."""
    import lm_eval

    title = re.compile(r"^ = [^=].* = ?$", re.MULTILINE)
    text = (data / WIKITEXT_FILE).read_text(encoding="utf-8")
    starts = [found.start() for found in title.finditer(text)]
    pages = [text[begin:end] for begin, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    # A page's last line break belongs to the line that the next page begins with.
    pages = [page.removesuffix("\n") if number < len(pages) - 1 else page for number, page in enumerate(pages)]
    (folder / "pages.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in pages))
    theirs = Path(lm_eval.__file__).parent / "tasks" / "wikitext" / "wikitext.yaml"
    (folder / "arc_direct.yaml").write_text(ARC % (data / ARC_FILE).resolve())
    (folder / "wikitext_direct.yaml").write_text(WIKITEXT % (theirs, folder / "pages.jsonl"))


def directly(model: Path, spec: BenchmarkSpec) -> tuple[dict[str, dict[str, Any]], str]:
    """Figures that lm-eval's command line writes, by our names of the tasks, and the table that it prints."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tasks(Path(spec.data), folder)
        arguments = [
            *("--model", "hf", "--model_args", f"pretrained={model},dtype={spec.dtype},max_length={spec.max_length}"),
            *("--tasks", "arc_direct,wikitext_direct", "--include_path", str(folder), "--device", "cpu"),
            *("--batch_size", str(spec.batch_size), "--seed", str(spec.seed), "--output_path", str(folder / "out")),
            *(("--limit", str(spec.limit)) if spec.limit else ()),
        ]
        # The stage takes all the cores that it may use; a direct run takes what OMP_NUM_THREADS says.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "HF_HOME": str(folder),
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, "-m", "lm_eval", "run", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"lm_eval failed: {done.stderr[-3000:]}")
        (written,) = (folder / "out").rglob("results_*.json")
        found = json.loads(written.read_text())["results"]
    return {name: found[f"{name.split('_')[0]}_direct"] for name in METRICS}, done.stdout


def compare(artifact: Artifact, direct: dict[str, dict[str, Any]]) -> list[tuple[str, float, float]]:
    """`task/metric`, ours, theirs."""
    return [
        (f"{task}/{metric}", artifact.metrics[f"{task}/{metric}"], direct[task][f"{metric},none"])
        for task, metrics in METRICS.items()
        for metric in metrics
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with open_lm's arc_easy.jsonl and wikitext-2/valid.txt")
    parser.add_argument("--limit", type=int, default=0, help="questions and pages; 0: all")
    parser.add_argument("--max-length", type=int, default=2048, help="context of WikiText in tokens")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        model = build(PretrainedSpec(), {}, store=store, name="smollm2")
        spec = spec_of(options.data, options.limit, options.max_length)
        began = time.monotonic()
        artifact = build(spec, {"model": model}, store=store, name="bench")
        middle = time.monotonic()
        direct, table = directly(model.local(), spec)
        print(table)
        rows = compare(artifact, direct)
    for name, ours, theirs in rows:
        print(f"{name:30} {ours!r:22} {theirs!r:22} {'equal' if ours == theirs else 'NOT EQUAL'}")
    print(f"ours {middle - began:.1f} s, lm-eval {time.monotonic() - middle:.1f} s, start included")
    if any(ours != theirs for _, ours, theirs in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
