"""ARC-easy by lm-eval, through an endpoint (its `local-completions`) and in this process, question by question.

    python benchmarks/arc_endpoint.py ../shared/data/eval/open_lm [--limit 200] [--model pretrained/mine]

Without --model it is SmolLM2-135M-Instruct, out of the package that carries it. The endpoint is `ctl serve up`'s, with
its defaults; both get the same tokens. Told are both accuracies, and how many questions were right in one alone.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval would bootstrap in forks of this process, which holds threads

from benchmarks.serving import NAME, servers
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import BenchmarkSpec, PretrainedSpec
from pipelines.stages.evaluation.benchmark import load_tasks

TASK, METRICS = "arc_easy", ("acc", "acc_norm")


def evaluated(lm: Any, spec: BenchmarkSpec) -> dict[int, dict[str, float]]:
    """Of each question, whether it was right."""
    from lm_eval import simple_evaluate

    manager, tasks = load_tasks(spec)
    found: Any = simple_evaluate(model=lm, tasks=tasks[TASK], task_manager=manager, limit=spec.limit, bootstrap_iters=0)
    samples = {sample["doc_id"]: sample for sample in found["samples"][TASK]}
    return {number: {metric: sample[metric] for metric in METRICS} for number, sample in samples.items()}


def in_process(model: Artifact) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model.local()), device="cpu", dtype="float32", batch_size=8)


def through(url: str, model: Artifact) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=f"{url}/completions", model=NAME, tokenizer=str(model.local()), tokenizer_backend="huggingface",
        num_concurrent=8, batch_size=4, max_retries=1,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder with arc_easy.jsonl, as open_lm has it")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--model", default="", help="artifact; without one SmolLM2")
    parser.add_argument("--store", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.model:
            model = Store(given.store).resolve(given.model)
        else:
            from cluster.pipeline import build

            model = build(PretrainedSpec(), {}, store=Store(folder / "store"), name="smollm2")
        spec = BenchmarkSpec(tasks=(TASK,), data=given.data, limit=given.limit)
        server = servers(model, False, folder / "home")[0]
        with server.running(folder / "log"):
            there = evaluated(through(server.url, model), spec)
        here = evaluated(in_process(model), spec)
    for metric in METRICS:
        sides = [sum(each[metric] for each in side.values()) / len(side) for side in (there, here)]
        differ = sum(there[number][metric] != here[number][metric] for number in here)
        print(
            f"{metric:<9} endpoint {sides[0]:.4f}  in process {sides[1]:.4f}  "
            f"{differ} of {len(here)} questions right in one alone",
            flush=True,
        )


if __name__ == "__main__":
    main()
