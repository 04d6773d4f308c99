"""Rewards: what is wrong with one of one's own is said before a run; what ours say of answers is what they should."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.core.errors import NotReadyError, SpecError
from cluster.core.specs.spec import convert, fields
from cluster.core.storage.location import Location
from pipelines.specs import RlhfSpec
from pipelines.stages.alignment.prompts import Prompt, read_prompts, write_prompts
from pipelines.stages.alignment.rewards.calls import as_number
from pipelines.stages.alignment.rewards.format import FormatReward
from pipelines.stages.alignment.rewards.gsm8k import Gsm8k, number
from pipelines.stages.alignment.rewards.judge import Judge
from pipelines.stages.alignment.rewards.language import LanguageReward
from pipelines.stages.alignment.rewards.length import LengthReward
from pipelines.stages.alignment.rewards.mathematics import Mathematics, boxed
from pipelines.stages.alignment.rewards.named import named, weights
from pipelines.stages.alignment.rewards.passes_tests import PassesTests, entry_point
from pipelines.stages.alignment.rewards.python import PythonReward
from pipelines.stages.alignment.rewards.repetition import RepetitionReward
from pipelines.stages.alignment.rewards.reward import Reward
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.generation.asking import Answer
from pipelines.stages.generation.endpoint import ChatEndpoint
from pipelines.stages.generation.engine import Completion
from tests.conftest import SHARED_DATA

ANSWERS = [json.loads(line) for line in Path(__file__).with_name("answers.jsonl").read_text().splitlines()]

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
        ("graders:several", "a generator: it does not return when it is called"),
    ],
)
def test_what_cannot_be_called_is_refused(name: str, words: str) -> None:
    with pytest.raises(SpecError, match=words) as caught:
        PythonReward(function=name).require()
    assert str(caught.value).startswith("rlhf.rewards: ")


def test_what_can_be_called_is_taken_with_its_options() -> None:
    for name in ("letters", "defaults", "judge", "judge.method", "Judge.of_class"):
        PythonReward(function=f"graders:{name}").require()
    PythonReward(function="graders:keyword", options={"weight": 3}).require()
    assert PythonReward(function="graders:defaults", options={"weight": 3}).of(asked("one")) == 3
    with pytest.raises(SpecError, match=r"graders:letters\(sample\) cannot be called with one Sample and weight"):
        PythonReward(function="graders:letters", options={"weight": 3}).require()


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
        (None, "None of type NoneType"),
        ("0.5", "'0.5' of type str"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
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
def test_what_is_no_number_is_told(value: object, words: str) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError), match=words):
        as_number(value)


def asked(answer: str, reference: str = "", request: str = "How many?", finished: bool = True) -> Sample:
    return Sample([{"role": "user", "content": request}], answer, finished, reference=reference)


def spec(rewards: dict[str, Any]) -> RlhfSpec:
    return convert({"rewards": rewards}, RlhfSpec, "rlhf")


def test_a_reward_is_a_weight_or_a_struct() -> None:
    brief = {"type": "length", "at_most": 9, "unit": "words", "weight": 0.5}
    made = spec({"python_parses": 1, "graders:letters": 0.1, "reward_model": 2, "brief": brief})
    assert {name: reward.name for name, reward in named(made.rewards).items()} == {
        "python_parses": "python_parses",
        "graders:letters": "python",
        "brief": "length",
    }
    assert weights(made.rewards) == {"python_parses": 1, "graders:letters": 0.1, "reward_model": 2, "brief": 0.5}
    plain = fields(made)["rewards"]
    assert plain["python_parses"] == 1.0 and plain["brief"]["unit"] == "words"
    assert convert(fields(made), RlhfSpec, "rlhf") == made


def test_a_spec_of_weights_alone_is_written_as_before() -> None:
    """Artifacts of before rewards had more than a weight are found by the same fingerprint."""
    assert fields(RlhfSpec(rewards={"gsm8k": 1, "m:f": 2.0}))["rewards"] == {"gsm8k": 1.0, "m:f": 2.0}


@pytest.mark.parametrize(
    ("rewards", "words"),
    [
        ({"gsm": 1}, r"no function 'gsm'.* 'gsm8k'"),
        ({"format": 1}, r"rlhf.rewards.format: says nothing of pattern.*\{type: format, weight: 1, pattern: ...\}"),
        ({"x": {"type": "lenght", "at_most": 1}}, r"rlhf.rewards.x.type: there is no 'lenght'.*'length'"),
        ({"x": {"type": "length", "at_mots": 1}}, r"rlhf.rewards.x.at_mots: unknown field.*'at_most'"),
        ({"x": {"type": "length", "at_most": 1, "at_least": 2}}, "x.at_least: 2 is more than"),
        ({"x": {"type": "format", "pattern": "("}}, "x.pattern: missing"),
        ({"m:f": {"type": "format", "pattern": "a"}}, "no name for a reward that says its type"),
        ({"overlong": {"type": "format", "pattern": "a"}}, "no name for a reward"),
        ({"x": {"type": "gsm8k", "failure_score": 1}}, "x.failure_score: goes with"),
        ({"reward_model": {"type": "gsm8k"}}, "has a weight only"),
        ({"gsm8k": 0, "x": {"type": "gsm8k", "weight": 0}}, "nothing to learn from"),
        ({"x": {"type": "judge", "endpoint": {"url": "nowhere", "model": "m"}}}, "x.endpoint.url"),
    ],
)
def test_what_is_no_reward_is_refused(rewards: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec(rewards)


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row["answer"][:30])
def test_answers_that_a_person_has_checked(row: dict[str, Any]) -> None:
    """60 answers: our checkers agree with a person everywhere, math-verify but where the row says why not."""
    from math_verify import parse, verify

    reward: Reward = {"gsm8k": Gsm8k, "mathematics": Mathematics}[row["reward"]]()
    sample = asked(row["answer"], row["reference"], row["request"])
    assert reward.of(sample) == row["right"]
    assert reward.of(asked(row["answer"], row["reference"], row["request"], finished=False)) == 0.0
    said = row["reference"] if "boxed" in row["reference"] else f"${row['reference'].rpartition('####')[2].strip()}$"
    assert verify(parse(said), parse(row["answer"])) == row.get("math_verify", row["right"])
    assert ("because" in row) == (row.get("math_verify", row["right"]) != row["right"])


def test_the_answers_are_sixty() -> None:
    assert len(ANSWERS) == 60 and len({(row["reference"], row["answer"], row["request"]) for row in ANSWERS}) == 60


def test_boxes() -> None:
    assert boxed(r"\boxed{\frac{1}{2}} and \fbox{\{3\}}") == r"\{3\}"
    assert boxed(r"\boxed{1") is None and boxed("1") is None


def test_gsm8k_reads_its_own_answers() -> None:
    file = SHARED_DATA / "rl_prompts" / "gsm8k"
    lines = [line for path in sorted(file.rglob("*.jsonl")) for line in path.read_text().splitlines()]
    if not lines:
        pytest.skip(f"{file} is not there")
    for line in lines:
        reference = json.loads(line)["answer"]
        own = float(reference.rpartition("####")[2].strip().replace(",", ""))
        assert Gsm8k().of(asked(reference, reference)) == 1.0 and float(number(reference) or 0) == own


@pytest.mark.parametrize(
    ("reward", "reference", "words"),
    [
        (Gsm8k(), "many", "has no number"),
        (Mathematics(), " $ $ ", "says nothing"),
        (PassesTests(), "assert add(1", "is not Python"),
        (PassesTests(), "assert 1 + 1 == 2", "here they are: none"),
        (PassesTests(), "assert add(1) == sub(1)", "here they are: add, sub"),
    ],
)
def test_references_that_nothing_compares_with(reward: Reward, reference: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        reward.check_reference(reference)


def test_the_function_that_tests_are_about() -> None:
    assert entry_point("assert add(1, 2) == max(3, 2)\nassert add(*[0] * 2) == 0") == "add"
    human = "import math\n\ndef check(candidate):\n    for x in range(3):\n        assert candidate(x) == math.sqrt(x)"
    assert entry_point(human + "\n\ncheck(root)\n") == "root"


def test_the_program_of_an_answer() -> None:
    fenced = asked("First:\n```python\nx = 1\n```\nBetter:\n```\nx = 2\n```\nDone.")
    assert PassesTests().program(fenced) == "x = 2\n"
    assert PassesTests().program(asked("x = 3")) == "x = 3"
    assert PassesTests(code="request_and_answer").program(asked("    return 1", request="def f():")).startswith("def f")


@pytest.mark.parametrize(
    ("reward", "answer", "expected"),
    [
        (
            FormatReward(pattern=r"<think>.*</think>\s*<answer>.*</answer>"),
            "<think>\na</think>\n<answer>b</answer>\n",
            1,
        ),
        (FormatReward(pattern=r"<think>.*</think>"), "<think>a</think> b", 0),
        (FormatReward(pattern=r"<think>.*</think>", match="part"), "<think>a</think> b", 1),
        (LengthReward(at_most=3, at_least=2, unit="words"), "one two", 1),
        (LengthReward(at_most=3, at_least=2, unit="words"), "one", 0),
        (LengthReward(at_most=3, unit="words", slack=4), "one two three four", 0.75),
        (LengthReward(at_most=1, unit="lines"), "one\ntwo", 0),
        (LengthReward(at_most=1, unit="tokens", slack=10), "no tokens at all", 1),
        (LengthReward(at_most=3, unit="characters", slack=2), "four", 0.5),
        (RepetitionReward(ngram=2), "a b a b a", 0.5),
        (RepetitionReward(), "all of it is new", 1),
        (RepetitionReward(ngram=1), "我我", 0.5),
        (RepetitionReward(), "", 1),
    ],
)
def test_form_length_and_repetition(reward: Reward, answer: str, expected: float) -> None:
    assert reward.of(asked(answer)) == expected


def test_language() -> None:
    english, chinese = "The house by the river is old.", "河边的房子很老，没有人住在里面。"
    assert LanguageReward(language="zh").of(asked(chinese)) > 0.5
    assert LanguageReward(language="en").of(asked(chinese)) == 0
    assert LanguageReward().of(asked(english, request="What is this old house by the river?")) > 0.5
    assert LanguageReward().of(asked(chinese, request="What is this old house by the river?")) == 0


def test_a_judge_is_asked_and_its_last_line_read(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(endpoint=ChatEndpoint(model="m", api_key_env="TL_NO_KEY"), best=5)
    (text,) = judge.questions(asked("[[5]] {reference}", "42", finished=False))
    for words in ("<request>\nHow many?", "known to be right", "42", "cut off", "[[5]] {reference}"):
        assert words in text
    assert "known to be right" not in judge.questions(asked("x"))[0]

    def said(text: str, refused: str = "") -> Answer:
        return Answer(key="", id="", seed=0, text=text, refused=refused)

    assert judge.read([said("The answer says [[5]].\n[[2]]\n")]) == 0.4
    for verdict, words in ((said("[[5]] it is"), "no mark"), (said("[[6]]"), "no mark"), (said("", "busy"), "busy")):
        with pytest.raises(ValueError, match=words):
            judge.read([verdict])
    monkeypatch.delenv("TL_NO_KEY", raising=False)
    with pytest.raises(NotReadyError, match="TL_NO_KEY is not set"):
        judge.require()


def test_a_reward_sees_what_else_the_record_of_its_prompt_says(tmp_path: Path) -> None:
    class Letters:
        def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
            return "".join(map(chr, tokens))

    asked = Prompt("a", [{"role": "user", "content": "17 * 3?"}], [1], "51", {"level": 3, "tests": ["a"]})
    place = Location(tmp_path)
    write_prompts(place, "train", [asked])
    (prompt,) = read_prompts(place, "train")
    drawn = Completion([53, 49], [0.0, 0.0], True)
    sample = Sample.of(Letters(), prompt.messages, drawn, prompt.reference, prompt.fields)
    assert (sample.answer, sample.reference, sample.fields) == ("51", "51", {"level": 3, "tests": ["a"]})
    old = [{"id": "a", "messages": asked.messages, "tokens": [1], "reference": ""}]  # of a run that began before
    place.write_bytes("train.json", json.dumps(old).encode())
    assert read_prompts(place, "train")[0].fields == {}
