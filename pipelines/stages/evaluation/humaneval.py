"""The HumanEval stage: a model completes functions, and each completion is run against the problem's tests.

Chen et al. 2021, arXiv:2107.03374: the prompt as it is, completions cut at the first of five stop sequences, and pass@k
by the unbiased estimator of its section 2.1. Programs run in the sandbox (sandbox.py), which is tried before the model
is; completions are written before they are run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from transformers import AutoTokenizer

from cluster.core.context import Context
from cluster.core.sandbox import sandbox
from cluster.core.sandbox.sandbox import Limits, Trial, Verdict
from pipelines.specs import HumanEvalSpec
from pipelines.stages.evaluation.generation import versions
from pipelines.stages.evaluation.overlap import bootstrapped
from pipelines.stages.evaluation.results import (
    RESULTS_FILE,
    SAMPLES_FILE,
    Outcome,
    Result,
    Results,
    encode_outcomes,
    encode_results,
    with_interval,
)
from pipelines.stages.generation.answers import answer
from pipelines.stages.tuning.conversation import BadRecord
from pipelines.stages.tuning.conversations import read_lines, write_lines
from pipelines.stages.tuning.records import read_records

TASK = "humaneval"
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
COMPLETIONS_FILE, VERDICTS_FILE = "completions.jsonl", "verdicts.jsonl"


class Problem(NamedTuple):
    """One function to complete: `prompt` is its head and docstring, `test` defines `check(candidate)`."""

    task_id: str
    prompt: str
    entry_point: str
    test: str


def build(ctx: Context[HumanEvalSpec]) -> dict[str, Any]:
    """Write completions.jsonl, verdicts.jsonl, results.json and samples.jsonl. Returns the metrics.

    Raises NotReadyError, before anything is generated, where this machine cannot isolate a program.
    """
    spec = ctx.spec
    limits = Limits(spec.cpu_seconds, spec.wall_seconds, spec.memory_bytes, spec.isolation)
    problems = read_problems(spec.path)[: spec.max_problems or None]
    sandbox.require(limits)
    if not ctx.output.exists(COMPLETIONS_FILE):
        write_lines(ctx.output, COMPLETIONS_FILE, _completions(ctx, problems))
    rows = read_lines(ctx.output, COMPLETIONS_FILE)
    known = {problem.task_id: problem for problem in problems}
    verdicts = judge([(known[row["task_id"]], row["completion"]) for row in rows], limits, ctx)
    judged = [
        {**row, "passed": verdict.passed, "reason": verdict.reason} for row, verdict in zip(rows, verdicts, strict=True)
    ]
    write_lines(ctx.output, VERDICTS_FILE, judged)
    passed = [sum(r["passed"] for r in judged if r["task_id"] == name) for name in known]
    results, outcomes = score(list(known), passed, spec.samples_per_problem, spec.pass_at, spec.seed)
    report = Results(
        model=ctx.inputs["model"].record.ref,
        results=results,
        data_sha256={TASK: hashlib.sha256(json.dumps(problems).encode()).hexdigest()},
        versions=versions(("vllm",)),
    )
    ctx.output.write_bytes(SAMPLES_FILE, encode_outcomes(outcomes))
    ctx.output.write_bytes(RESULTS_FILE, encode_results(report))
    return {result.metric: round(result.value, 4) for result in results} | {"problems": len(problems)}


def read_problems(path: str) -> list[Problem]:
    """The problems of a file. Raises InputError for a record that is none."""

    def read(record: dict[str, Any]) -> Problem:
        missing = [field for field in Problem._fields if not isinstance(record.get(field), str)]
        if missing:
            raise BadRecord(f"no text in {', '.join(missing)}")
        return Problem(*(record[field] for field in Problem._fields))

    good, _ = read_records(path, read, 0.0, TASK)
    return [problem for _, problem in good]


def continuation(tokenizer: Any, prompt: list[int], completion: list[int]) -> str:
    """The text of a completion where it stands: alone, a SentencePiece tokenizer would lose the blank it begins with,
    and Python its indentation."""
    whole, before = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt + completion, prompt))
    return str(whole[len(before) :])


def until_stop(completion: str) -> str:
    """The completion before the first stop sequence."""
    return completion[: min((at for stop in STOPS if (at := completion.find(stop)) >= 0), default=None)]


def trial(problem: Problem, completion: str) -> Trial:
    """What is tried: the function as it was completed, by the problem's tests, which may use what else the prompt
    defines."""
    return Trial(
        solution=problem.prompt + completion,
        entry_point=problem.entry_point,
        test=f"{problem.test}\ncheck({problem.entry_point})\n",
        setup=f"{problem.prompt}\n    pass\n",
    )


def judge(candidates: Sequence[tuple[Problem, str]], limits: Limits, ctx: Context[Any] | None = None) -> list[Verdict]:
    """Run each completion of a problem, as many at a time as there are cores."""
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for verdict in pool.map(lambda pair: sandbox.run(trial(*pair), limits), candidates):
            verdicts.append(verdict)
            if ctx is not None:
                ctx.progress(len(verdicts), len(candidates), "programs")
    return verdicts


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples passes: 1 - C(n - c, k) / C(n, k)."""
    return 1.0 - math.comb(samples - passed, k) / math.comb(samples, k)


def score(
    ids: Sequence[str], passed: Sequence[int], samples: int, ks: Sequence[int], seed: int
) -> tuple[list[Result], list[Outcome]]:
    """pass@k over problems, of which so many of `samples` completions passed.

    One completion a problem gives a share of problems, with Wilson's interval; more give a mean, with the bootstrap's.
    """
    results: list[Result] = []
    outcomes: list[Outcome] = []
    for k in ks:
        metric = f"pass@{k}"
        values = [pass_at_k(samples, count, k) for count in passed]
        own = [Outcome(task=TASK, metric=metric, id=id, value=value) for id, value in zip(ids, values, strict=True)]
        result = bootstrapped(TASK, metric, np.array(values), seed)
        results.append(with_interval(result, own, seed) if samples == 1 else result)
        outcomes += own
    return results, outcomes


def _completions(ctx: Context[HumanEvalSpec], problems: list[Problem]) -> list[dict[str, Any]]:
    """Completions of every problem, those of one beside each other."""
    spec, model = ctx.spec, ctx.inputs["model"]
    tokenizer = AutoTokenizer.from_pretrained(model.local())
    asked = [problem for problem in problems for _ in range(spec.samples_per_problem)]
    prompts = {
        problem.task_id: list(tokenizer(problem.prompt, split_special_tokens=True)["input_ids"]) for problem in problems
    }
    completions = answer(
        ctx,
        model,
        [prompts[problem.task_id] for problem in asked],
        seed=spec.seed,
        max_tokens=spec.max_completion_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        eos_token_id=tokenizer.eos_token_id,
    )
    return [
        {
            "task_id": problem.task_id,
            "completion": until_stop(continuation(tokenizer, prompts[problem.task_id], completion.tokens)),
        }
        for problem, completion in zip(asked, completions, strict=True)
    ]
