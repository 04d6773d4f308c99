"""Answers of models to the same requests, as artifacts of the generation stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import GenerationSpec
from pipelines.stages.evaluation.results import Result, Results, encode_results
from tests.made import make


def answered(store: Store, name: str, answers: Mapping[str, str] | Sequence[str], seed: int = 0) -> Artifact:
    """`answers` by the id of the request, or for the requests 0, 1, 2, ..."""
    pairs = answers.items() if isinstance(answers, Mapping) else [(str(n), text) for n, text in enumerate(answers)]
    rows = [
        {
            "id": id,
            "request": [{"role": "user", "content": f"question {id} <b>&"}],
            "reference": f"reference {id}",
            "answer": text,
        }
        for id, text in pairs
    ]
    result = Result(task="generation", metric="rouge1", value=0.25, ci_low=0.125, ci_high=0.5, samples=len(rows))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    report = Results(model=f"sft/{name}", results=[result])
    files = {"answers.jsonl": lines.encode(), "results.json": encode_results(report)}
    return make(store, GenerationSpec(seed=seed), {}, files, name)
