"""Reward functions of one's own: what is wrong with them is said before a run, or with their name and the sample."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.core.errors import InputError, JobError, SpecError
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.calls import apply, as_number
from pipelines.stages.alignment.rewards.gsm8k import gsm8k, number
from pipelines.stages.alignment.rewards.rewards import reward_function
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.scoring import Scorer
from pipelines.stages.generation.engine import Completion
from tests.alignment.tiny_chat import rlhf
from tests.conftest import SHARED_DATA

SAMPLES = [Sample([{"role": "user", "content": f"Count to {n}."}], "one" * n, True) for n in range(4)]

MODULE = """
import asyncio

HALF = 0.5

def letters(sample): return len(sample.answer)
def bare(): return 1.0
def two(sample, reference): return 1.0
def keyword(sample, *, weight): return 1.0
def defaults(sample, weight=2, *more, **others): return weight
async def later(sample): return 1.0
def several(sample): yield 1.0

class Judge:
    def __call__(self, sample): return True
    def method(self, sample): return 3
    @classmethod
    def of_class(cls, sample): return 4

judge = Judge()

def seen(sample):
    seen.samples = [*getattr(seen, "samples", []), sample]
    return 0.0
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "graders.py").write_text(MODULE)
    (tmp_path / "graders_typo.py").write_text("def letters(sample):\n    return len(sample.answer\n")
    (tmp_path / "graders_needs.py").write_text("import a_library_that_is_not_here\n")
    (tmp_path / "graders_raises.py").write_text("x = 1\nraise RuntimeError('no key in the environment')\n")
    (tmp_path / "graders_exits.py").write_text("import sys\nsys.exit('usage: graders')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith("graders")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("graders:lettres", "graders:lettres cannot be imported.*lettres"),
        ("grader:letters", "grader:letters cannot be imported.*No module named 'grader'"),
        ("graders:", "not of the form module:function"),
        (":letters", "not of the form module:function"),
        ("graders_typo:letters", r"cannot be imported: SyntaxError.*graders_typo.py, line 2"),
        ("graders_needs:letters", "cannot be imported.*a_library_that_is_not_here"),
        ("graders_raises:letters", r"RuntimeError: no key in the environment \(.*graders_raises.py:2\)"),
        ("graders_exits:letters", "SystemExit: usage: graders"),
        ("graders:HALF", "graders:HALF is a value of type float, not a function"),
        ("graders:bare", r"graders:bare\(\) cannot be called with one Sample: too many positional arguments"),
        ("graders:two", r"cannot be called with one Sample: missing a required argument: 'reference'"),
        ("graders:keyword", r"cannot be called with one Sample: missing a required argument: 'weight'"),
        ("graders:later", "graders:later is asynchronous"),
        ("graders:several", "a generator: it does not return a number"),
    ],
)
def test_what_cannot_be_called_is_refused(name: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        reward_function(name)
    assert str(caught.value).startswith("rlhf.rewards: ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("graders:letters", [0, 3, 6, 9]),
        ("graders:defaults", [2] * 4),
        ("graders:judge", [1] * 4),
        ("graders:judge.method", [3] * 4),
        ("graders:Judge.of_class", [4] * 4),
    ],
)
def test_what_can_be_called_is_taken(name: str, expected: list[float]) -> None:
    found = apply(name, reward_function(name), SAMPLES, 60)
    assert found == expected
    assert all(type(value) is float for value in found)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (True, 1.0),
        (False, 0.0),
        (Fraction(1, 4), 0.25),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.int64(7), 7.0),
        (np.bool_(True), 1.0),
        (np.array(2.0), 2.0),
        (np.array([2.5]), 2.5),
        (torch.tensor(4), 4.0),
        (torch.tensor([0.5], dtype=torch.bfloat16), 0.5),
        (torch.tensor(True), 1.0),
    ],
)
def test_numbers_of_every_kind_are_rewards(value: object, expected: float) -> None:
    assert as_number(value) == expected
    assert type(as_number(value)) is float


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "returned None of type NoneType"),
        ("0.5", "returned '0.5' of type str"),
        (float("nan"), "returned nan"),
        (float("-inf"), "returned -inf"),
        (np.float32("nan"), "nan"),
        (torch.tensor(float("inf")), "inf"),
        (10**400, "beyond a float"),
        (1j, "of type complex"),
        (np.complex64(1j), "of type complex"),
        (np.str_("1"), "of type str"),
        ([0.5], r"\[0.5\] of type list"),
        ({"reward": 1}, "of type dict"),
        (np.array([1.0, 2.0]), "2 numbers"),
        (np.array([]), "0 numbers"),
        (torch.ones(2, 3), "6 numbers"),
    ],
)
def test_what_is_no_number_is_told_with_function_and_sample(value: object, words: str) -> None:
    """Of four samples the third is wrong."""

    def mostly(sample: Sample) -> object:
        return value if sample is SAMPLES[2] else 1.0

    with pytest.raises(InputError, match=words) as caught:
        apply("graders:mostly", mostly, SAMPLES, 60)  # type: ignore[arg-type]
    assert "rlhf.rewards: graders:mostly" in str(caught.value)
    assert "'oneone'" in str(caught.value) and "Count to 2." in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("no verdict"), KeyError("x"), SystemExit(3)])
def test_a_function_that_fails_is_told_with_its_line(error: BaseException) -> None:
    def fails(sample: Sample) -> float:
        raise error

    with pytest.raises(InputError, match=rf"graders:fails failed on the answer '' .*{type(error).__name__}.*test_rew"):
        apply("graders:fails", fails, SAMPLES, 60)


def test_a_function_that_does_not_return_ends_the_run_in_time() -> None:
    release = threading.Event()

    def waits(sample: Sample) -> float:
        if sample is SAMPLES[1]:
            release.wait()
        return 0.0

    began = time.monotonic()
    try:
        with pytest.raises(JobError, match=r"graders:waits did not return within 0.2 s: of 4 samples .* number 2") as c:
            apply("graders:waits", waits, SAMPLES, 0.2)
    finally:
        release.set()
    assert "Count to 1." in str(c.value) and "reward_timeout_seconds" in str(c.value)
    assert time.monotonic() - began < 60


class Words:
    """A tokenizer whose tokens are words."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        return " ".join(str(token) for token in tokens if token or not skip_special_tokens)


def test_the_scorer_gives_floats_whatever_the_functions_give() -> None:
    """Whole numbers and truth values made integer tensors, whose mean torch refuses."""
    spec = rlhf(1, rewards={"graders:letters": 1.0, "graders:judge": 0.5})
    scorer = Scorer(spec, Words(), None, 60)
    prompts = [Prompt(str(n), sample.messages, [1]) for n, sample in enumerate(SAMPLES[:2])]
    found = scorer(prompts, [Completion([7], [0.0], True), Completion([7, 8], [0.0] * 2, True)])
    assert found == {"graders:letters": [1.0, 3.0], "graders:judge": [1.0, 1.0]}
    assert torch.tensor([x for row in found.values() for x in row]).is_floating_point()


def test_a_function_sees_all_of_an_answer_and_what_would_have_been_right() -> None:
    seen = reward_function("graders:seen")
    prompt = Prompt("a", [{"role": "user", "content": "Count."}], [1], reference="1 2")
    scorer = Scorer(rlhf(1, rewards={"graders:seen": 1.0}), Words(), None, 60)
    scorer([prompt, prompt], [Completion([7, 8, 0], [0.0] * 3, True), Completion([7, 8], [0.0] * 2, False)])
    whole, cut = seen.samples  # type: ignore[attr-defined]
    assert (whole.answer, whole.text, whole.tokens, whole.finish_reason) == ("7 8", "7 8 0", (7, 8, 0), "stop")
    assert (cut.answer, cut.text, cut.finish_reason, cut.reference) == ("7 8", "7 8", "length", "1 2")


@pytest.mark.parametrize(
    ("answer", "reference", "reward"),
    [
        ("6 * 7 = 42\n#### 42", "It is 42.\n#### 42", 1.0),
        ("#### 42", "42", 1.0),
        ("#### 1,234", "#### 1234", 1.0),
        ("#### $1,234.50 a year", "#### 1234.5", 1.0),
        ("#### -5", "#### -5", 1.0),
        ("#### -$5", "#### -5", 1.0),
        ("#### 5", "#### -5", 0.0),
        ("#### 41\n#### 42", "#### 42", 0.0),  # the first counts
        ("The answer is 42.", "#### 42", 0.0),
        ("####", "#### 42", 0.0),
        ("#### none of the 42", "#### 42", 0.0),
        ("#### 42", "#### 420", 0.0),
        ("#### 18 apples and 3 pears", "#### 18", 1.0),
    ],
)
def test_gsm8k(answer: str, reference: str, reward: float) -> None:
    request = [{"role": "user", "content": "How many?"}]
    assert gsm8k(Sample(request, answer, True, reference=reference)) == reward
    assert gsm8k(Sample(request, answer, False, reference=reference)) == 0.0  # cut off


def test_gsm8k_needs_a_reference() -> None:
    with pytest.raises(InputError, match="no number"):
        gsm8k(Sample([{"role": "user", "content": "How many?"}], "#### 1", True))


def test_gsm8k_reads_its_own_answers() -> None:
    file = SHARED_DATA / "rl_prompts" / "gsm8k"
    lines = [line for path in sorted(file.rglob("*.jsonl")) for line in path.read_text().splitlines()]
    if not lines:
        pytest.skip(f"{file} is not there")
    for line in lines:
        reference = json.loads(line)["answer"]
        own = float(reference.rpartition("####")[2].strip().replace(",", ""))
        sample = Sample([{"role": "user", "content": "?"}], reference, True, reference=reference)
        assert gsm8k(sample) == 1.0 and float(number(reference) or 0) == own
