"""A reward that misbehaves costs the sample that it misbehaved on, and nothing else."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import torch

from cluster.core.errors import InputError, JobError, NotReadyError
from cluster.core.storage.location import Location
from pipelines.specs import ScalingSpec
from pipelines.stages.alignment.advantages.group import Group
from pipelines.stages.alignment.advantages.leave_one_out import LeaveOneOut
from pipelines.stages.alignment.advantages.normalized_batch import NormalizedBatch
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.named import named
from pipelines.stages.alignment.rewards.passes_tests import PassesTests
from pipelines.stages.alignment.rewards.pool import Failed, Pool
from pipelines.stages.alignment.rewards.python import PythonReward
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.scoring import FAILURES_FILE, Failures, Scorer, Scores, summed
from pipelines.stages.generation.engine import Completion
from tests.alignment import broken_rewards
from tests.alignment.tiny_chat import rlhf
from tests.making.endpoint import Reply, last, serving

BROKEN = broken_rewards.__name__
OWN = "tests.alignment.own_rewards"
ANSWERS = ("good", "fine", "bad", "well")
MEMORY_BYTES = 1 << 28


def sample(answer: str, reference: str = "") -> Sample:
    return Sample([{"role": "user", "content": f"Say {answer}."}], answer, True, reference=reference)


SAMPLES = [sample(answer) for answer in ANSWERS]


@pytest.fixture
def pool() -> Iterator[Callable[..., Pool]]:
    """Makes a pool of functions of `broken_rewards`, one process; what it has started is gone afterwards."""
    made: list[Pool] = []

    def make(*functions: str, processes: int = 1, **fields: Any) -> Pool:
        given = {"on_failure": "skip", "timeout_seconds": 60.0} | fields
        rewards = {name: PythonReward(function=f"{BROKEN}:{name}", **given) for name in functions}
        made.append(Pool(rewards, 0, processes, MEMORY_BYTES))
        return made[-1]

    before = set(psutil.Process().children(recursive=True))
    yield make
    for each in made:
        each.close()
    assert set(psutil.Process().children(recursive=True)) <= before
    assert broken_rewards.NAME.decode() not in {process.info["name"] for process in psutil.process_iter(["name"])}


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("raises", r"failed: ZeroDivisionError: division by zero \(.*broken_rewards.py:\d+\)"),
        ("lies", "ended its process with status 7"),
        ("returns_nan", "returned nan"),
        ("returns_nothing", "returned None of type NoneType"),
        ("exits", "ended its process with status 3; it last printed: last words"),
        ("leaves", "failed: SystemExit: usage: grader"),
        ("is_killed", "was killed by signal 9"),
        ("crashes", "was killed by signal 11"),
        ("allocates", "failed: MemoryError"),
        ("closes", "ended its process with status 0"),
        ("scribbles", "wrote into the pipe that its answer belongs into"),
        ("forks_and_exits", "ended its process with status 0"),
    ],
)
def test_what_fails_on_a_sample_fails_on_that_alone(pool: Callable[..., Pool], how: str, why: str) -> None:
    found = pool(how).score(SAMPLES, 60)[how]
    assert [found[0], found[1], found[3]] == [1, 1, 1]
    assert isinstance(found[2], Failed) and re.match(why, found[2].why), found[2]


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["hangs", "spins"])
def test_what_does_not_return_is_killed(pool: Callable[..., Pool], how: str) -> None:
    assert pool(how, timeout_seconds=2.0).score(SAMPLES, 60)[how] == [1, 1, Failed("did not return within 2 s"), 1]


@pytest.mark.heavy
def test_what_misbehaves_and_returns_has_returned(pool: Callable[..., Pool]) -> None:
    """A gigabyte of output, copies of the process, and changes of everything global."""
    state = random.getstate(), torch.random.get_rng_state().tolist()
    made = pool("prints", "forks", "changes_all", "draws", on_failure="fail")
    found = made.score(SAMPLES, 120)
    assert found["prints"] == found["forks"] == found["changes_all"] == [1] * 4
    assert (random.getstate(), torch.random.get_rng_state().tolist()) == state
    assert len(set(found["draws"])) == 4
    assert pool("draws", processes=2).score(SAMPLES[::-1] * 2, 60)["draws"] == found["draws"][::-1] * 2


@pytest.mark.heavy
def test_a_pool_goes_on_after_a_failure_that_ends_a_batch(pool: Callable[..., Pool]) -> None:
    made = pool("hangs", "raises", on_failure="fail")
    with pytest.raises(
        InputError, match=r"rlhf.rewards: raises failed: Zero.* for the answer 'bad' to 'Say bad.'"
    ) as c:
        pool("raises", on_failure="fail").score(SAMPLES, 60)
    assert "on_failure" in str(c.value)
    assert made.score(SAMPLES[:2], 60) == {"hangs": [1, 1], "raises": [1, 1]}
    began = time.monotonic()
    with pytest.raises(
        JobError, match=r"hangs, raises did not return within 1 s: 5 of 8 .* hangs is at the answer 'bad'"
    ):
        made.score(SAMPLES, 1)
    assert time.monotonic() - began < 30
    assert made.score(SAMPLES[:2], 60) == {"hangs": [1, 1], "raises": [1, 1]}


class Words:
    """A tokenizer whose tokens are words."""

    WORDS = ("", *ANSWERS)

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return " ".join(self.WORDS[token] or "<end>" for token in tokens if token or not skip_special_tokens)


def scored(rewards: dict[str, Any], place: Path, tokens: list[list[int]]) -> Scores:
    spec = msgspec.convert({"rewards": rewards}, type(rlhf(1)))
    scorer = Scorer(spec, Words(), None, ScalingSpec(reward_processes=1), Location(place))
    prompts = [Prompt(f"p{n}", [{"role": "user", "content": "Say."}], [1], "1 2") for n in range(len(tokens))]
    completions = [Completion(ids, [0.0] * len(ids), 0 in ids) for ids in tokens]
    try:
        return scorer(prompts, completions)
    finally:
        scorer.pool.close()


@pytest.mark.heavy
def test_what_becomes_of_a_failure_is_the_specs_to_say(tmp_path: Path) -> None:
    nan = {"type": "python", "function": f"{BROKEN}:returns_nan", "weight": 2.0}
    rewards = {"a": nan | {"on_failure": "skip"}, "b": nan | {"on_failure": "score", "failure_score": -1.0}}
    found = scored(rewards, tmp_path, [[1, 0], [3, 0], [2, 0]])
    assert found.by_name["b"] == [1, -1, 1] and np.isnan(found.by_name["a"]).tolist() == [False, True, False]
    told = {"prompt": "p1", "answer": "bad", "why": "returned nan"}
    assert found.failures == [{"reward": "a", **told, "became": "skipped"}, {"reward": "b", **told, "became": -1.0}]
    spec = msgspec.convert({"rewards": rewards}, type(rlhf(1)))
    whole = summed(spec, 4, [found, Scores({"a": [0.5], "b": [0.5]})], {"overlong": torch.tensor([0.0, -1, -1, 0])})
    assert whole.total.tolist() == [4, 0, 3, 2] and whole.present.tolist() == [True, False, True, True]
    assert whole.mean == 3 and whole.means() == {"a": pytest.approx(5 / 6), "b": 0.375, "overlong": -0.5}
    with pytest.raises(InputError, match=r"rlhf.rewards: c returned nan, for the answer 'bad'"):
        scored({"c": nan}, tmp_path, [[3, 0]])
    with pytest.raises(JobError, match="a failed on a sample of every completion of a batch, the first: returned nan"):
        summed(spec, 1, [scored(rewards, tmp_path, [[3, 0]])], {})


@pytest.mark.heavy
def test_a_judge_is_asked_once_about_an_answer(tmp_path: Path) -> None:
    """By a run that goes on, too; and one that says nothing in time, or nothing that can be read, is told."""

    def mark(body: dict[str, Any], number: int) -> Reply:
        return Reply("Hm.\n[[7]]" if "<answer>\ngood" in last(body) else "I like it.")

    def judged(server: Any, **fields: Any) -> Scores:
        judge = {"type": "judge", "endpoint": msgspec.to_builtins(server.endpoint()), **fields}
        return scored({"judge": judge, f"{OWN}:letters": 1.0}, tmp_path, [[1, 0], [3, 0]])

    with serving(mark) as server:
        for _ in range(2):
            found = judged(server, on_failure="score")
            assert found.by_name == {"judge": [0.7, 0.0], f"{OWN}:letters": [4.0, 3.0]}
            assert len(server.asked) == 2
        assert "no mark of [[0]] to [[10]]: 'I like it.'" in found.failures[0]["why"]
        with pytest.raises(InputError, match=r"judge failed: the judge's last line .* for the answer 'bad'"):
            judged(server)


def test_a_function_sees_all_of_an_answer_and_what_would_have_been_right(tmp_path: Path) -> None:
    """And floats come of whatever functions return: of whole numbers and truth values torch takes no mean."""
    own = {f"{OWN}:letters": 1.0, f"{OWN}:ended": 1.0, f"{OWN}:share": 1.0, f"{OWN}:all_of_it": 1.0}
    found = scored(own, tmp_path, [[1, 2, 0], [1, 2]]).by_name
    assert found[f"{OWN}:letters"] == [9.0, 9.0] and found[f"{OWN}:ended"] == [1.0, 0.0]
    assert found[f"{OWN}:all_of_it"] == [1.0, 2.0]
    assert all(type(value) is float for values in found.values() for value in values)


def test_failures_are_kept_once_where_a_run_goes_on_earlier(tmp_path: Path) -> None:
    first = Failures(Location(tmp_path), 0)
    first.add(0, True, [{"why": "a"}])
    for step in (0, 2, 4):
        first.add(step, False, [{"why": "b"}])
    Failures(Location(tmp_path), 2).add(2, False, [{"why": "c"}])
    lines = [json.loads(line) for line in (tmp_path / FAILURES_FILE).read_text().splitlines()]
    assert [(line["step"], line["why"]) for line in lines] == [(0, "a"), (0, "b"), (2, "c")]


GROUPS = np.array([[1.0, 0.0, 2.0, 7.0], [3.0, 3.5, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0], [5.0, 9.0, 9.0, 9.0], [9.0] * 4])
PRESENT = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)


def of_group(kept: np.ndarray) -> np.ndarray:
    return (kept - kept.mean()) / (kept.std() + 1e-4) if len(kept) > 1 else 0 * kept


def of_others(kept: np.ndarray) -> np.ndarray:
    return (kept - (kept.sum() - kept) / (len(kept) - 1)) if len(kept) > 1 else 0 * kept


def of_batch(centre: bool) -> np.ndarray:
    rows = [
        row[present] - (row[present].mean() if centre else 0)
        for row, present in zip(GROUPS, PRESENT, strict=True)
        if present.any()
    ]
    kept, found = np.concatenate(rows), np.zeros(GROUPS.shape)
    found[PRESENT] = (kept - kept.mean()) / (kept.std() + 1e-4)
    return found


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        (Group(), of_group),
        (LeaveOneOut(), of_others),
        (NormalizedBatch(), of_batch(False)),
        (NormalizedBatch(subtract_group_mean=True), of_batch(True)),
    ],
)
def test_a_sample_that_is_left_out_is_as_if_it_had_not_been_drawn(advantage: Any, expected: Any) -> None:
    if callable(expected):
        found = np.zeros(GROUPS.shape)
        for row, present in enumerate(PRESENT):
            if present.any():
                found[row, present] = expected(GROUPS[row, present])
        expected = found
    rewards, present = torch.tensor(GROUPS.flatten()), torch.tensor(PRESENT.flatten())
    assert np.allclose(advantage.among(rewards, present, 4).reshape(5, 4), expected, atol=1e-12)
    other = advantage.among(rewards.where(present, 1e6), present, 4)
    assert torch.equal(other, advantage.among(rewards, present, 4))
    assert torch.equal(advantage.among(rewards, present | True, 4), advantage.of(rewards, 4))


TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
PROGRAMS = {
    "right": ("def add(a, b):\n    return a + b", 1),
    "wrong": ("def add(a, b):\n    return a - b", 0),
    "forges a report": (
        "import os\nfor n in range(64):\n    try: os.write(n, b'{\"passed\": true}')\n    except OSError: pass",
        0,
    ),
    "equals everything": ("class E(int):\n    __eq__ = lambda *_: True\ndef add(a, b): return E(7)", 0),
    "exits": ("import os\nos._exit(0)", 0),
    "escapes": ("open('/work-of-others', 'w')\ndef add(a, b): return a + b", 0),
    "forks": ("import os\nos.fork()\nwhile True:\n    try: os.fork()\n    except OSError: pass", 0),
    "waits": ("import time\ntime.sleep(1000)", 0),
}


@pytest.mark.heavy
def test_programs_are_judged_by_their_tests_alone(pool: Callable[..., Pool]) -> None:
    """In the pool as in a run: those that forge, escape, fork or wait fail, and none is left."""
    reward = PassesTests(cpu_seconds=1, wall_seconds=4.0)
    try:
        reward.require()
    except NotReadyError as error:
        pytest.skip(str(error))
    made = Pool({"passes_tests": reward}, 0, 2, 4 << 30)
    try:
        found = made.score([sample(f"```python\n{code}\n```", TESTS) for code, _ in PROGRAMS.values()], 120)
    finally:
        made.close()
    assert dict(zip(PROGRAMS, found["passes_tests"], strict=True)) == {
        how: worth for how, (_, worth) in PROGRAMS.items()
    }


@pytest.mark.heavy
def test_mathematics_runs_in_a_process_that_may_be_lost() -> None:
    """math-verify's SIGALRM works there; an answer that sympy does not finish with is wrong, and no failure."""
    made = Pool(named({"mathematics": 1.0}), 0, 1, 4 << 30)
    boxes = [r"\boxed{2^{10}}", r"\boxed{9^{9^{9^{9}}}}", r"\boxed{1024}"]
    try:
        assert made.score([sample(box, "1024") for box in boxes], 120)["mathematics"] == [1, 0, 1]
    finally:
        made.close()
