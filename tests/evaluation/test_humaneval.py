"""HumanEval: published solutions pass, others do not, pass@k is Chen's, and a model's completions are judged."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import msgspec
import pytest
from transformers import PreTrainedTokenizerFast

from cluster.core.build import build
from cluster.core.errors import InputError, SpecError
from cluster.core.sandbox.sandbox import Limits
from cluster.core.specs.spec import convert
from cluster.core.storage.store import Store
from pipelines.specs import HumanEvalSpec, ScalingSpec
from pipelines.stages.evaluation.humaneval import (
    continuation,
    judge,
    pass_at_k,
    read_problems,
    score,
    trial,
    until_stop,
)
from pipelines.stages.evaluation.results import Results
from pipelines.stages.tokens.tokenizers import sentencepiece_model
from tests.conftest import SHARED_DATA
from tests.evaluation.tiny_model import tiny_model

DATA = SHARED_DATA / "eval" / "humaneval" / "HumanEval.jsonl.gz"
PROBLEM = {
    "task_id": "Own/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('a') == 'aa'\n",
}


@pytest.mark.heavy
def test_the_published_solutions_pass_and_no_others() -> None:
    if not DATA.exists():
        pytest.skip(f"{DATA} is not there")
    problems = read_problems(str(DATA))
    solutions = [json.loads(line)["canonical_solution"] for line in gzip.decompress(DATA.read_bytes()).splitlines()]
    assert len(problems) == 164
    verdicts = judge(list(zip(problems, solutions, strict=True)), Limits())
    assert [p.task_id for p, v in zip(problems, verdicts, strict=True) if not v.passed] == []
    some = problems[:8]
    wrong = judge([(problem, "    return None\n") for problem in some], Limits())
    exits = judge([(problem, "    import os; os._exit(0)\n") for problem in some], Limits())
    assert not any(verdict.passed for verdict in wrong + exits)


def test_a_completion_ends_where_something_else_begins() -> None:
    assert until_stop("    return 1\n\nprint(double(1))") == "    return 1\n"
    assert until_stop("    return 1\n# so\ndef other():") == "    return 1"
    assert until_stop("    if x:\n        return 1\n") == "    if x:\n        return 1\n"
    assert until_stop("\nclass A:\n    pass") == ""


def test_a_completion_keeps_its_indentation() -> None:
    """Under LLaMA's kind of tokenizer too, which drops the blank in front of what it decodes."""
    prompt, body = PROBLEM["prompt"], "    return 2 * x\n"
    trained = sentencepiece_model.train([prompt + body] * 20, 330, "bpe", end_of_text="<|end|>", or_fewer=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=sentencepiece_model.tokenizer(trained))
    whole, before = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt + body, prompt))
    assert whole[: len(before)] == before
    assert tokenizer.decode(whole[len(before) :]) != body
    assert continuation(tokenizer, before, whole[len(before) :]) == body


def test_pass_at_k_is_the_share_of_draws_with_a_pass() -> None:
    """Against counting all draws of k among n samples."""
    for samples, passed, k in itertools.product((1, 4, 6), (0, 1, 3, 4, 6), (1, 2, 5)):
        if passed <= samples and k <= samples:
            draws = list(itertools.combinations([i < passed for i in range(samples)], k))
            assert pass_at_k(samples, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5)


def test_intervals() -> None:
    (one,), outcomes = score([f"T/{i}" for i in range(10)], [1, 0, 1, 1, 0, 1, 1, 1, 0, 1], 1, (1,), 0)
    assert (one.metric, one.value, one.samples, one.ci_method) == ("pass@1", 0.7, 10, "wilson")
    # Wilson 1927 for 7 of 10
    assert (one.ci_low, one.ci_high) == (pytest.approx(0.3968, abs=1e-4), pytest.approx(0.8922, abs=1e-4))
    assert [outcome.value for outcome in outcomes][:2] == [1.0, 0.0]
    several, _ = score(["a", "b"], [1, 3], 4, (1, 2), 0)
    assert [(result.value, result.ci_method) for result in several] == [
        (0.5, "bootstrap"),
        (pytest.approx(0.75), "bootstrap"),
    ]


def test_mistakes_are_named(tmp_path: Path) -> None:
    for fields, said in (
        ({}, "humaneval.path"),
        ({"path": "x", "pass_at": [5]}, r"pass_at: \[5\] of 1 samples"),
        ({"path": "x", "samples_per_problem": 2}, "greedy samples are all the same"),
    ):
        with pytest.raises(SpecError, match=said):
            convert(fields, HumanEvalSpec, "humaneval").check()
    (tmp_path / "bad.jsonl").write_text(json.dumps(PROBLEM | {"test": None}))
    with pytest.raises(InputError, match="no text in test"):
        read_problems(str(tmp_path / "bad.jsonl"))


def test_a_model_is_examined(store: Store, tmp_path: Path, ray_cluster: None) -> None:
    """A model that knows nothing: its completions are run, fail, and the report says so."""
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    spec = HumanEvalSpec(
        path=str(tmp_path / "problems.jsonl"), samples_per_problem=2, pass_at=(1, 2), temperature=0.8,
        max_completion_tokens=8,
    )  # fmt: skip
    made = build(spec, {"model": tiny_model(store)}, store=store, name="x", scaling=ScalingSpec(rollout_workers=1))
    report = msgspec.json.decode((made.local() / "results.json").read_bytes(), type=Results)
    assert [(r.metric, r.value, r.samples) for r in report.results] == [("pass@1", 0.0, 1), ("pass@2", 0.0, 1)]
    rows = [json.loads(line) for line in (made.local() / "verdicts.jsonl").read_text().splitlines()]
    assert [row["passed"] for row in rows] == [False, False]
    assert trial(read_problems(spec.path)[0], "    return 2 * x\n").test.endswith("check(double)\n")
