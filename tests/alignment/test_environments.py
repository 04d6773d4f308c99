"""Environments: what tools answer, and answers of several turns, of which the model's own tokens alone are learned."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.core.encoding import encode, prompt_tokens
from cluster.core.errors import SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from cluster.core.tools.calculator import calculate
from cluster.core.tools.search import INDEX_FILE, Search, write_index
from cluster.core.tools.solver import solve
from pipelines.specs import CorpusSpec, RlhfSpec
from pipelines.stages.alignment.environments import PythonEnvironment, Tools
from pipelines.stages.alignment.environments.environment import Environment
from pipelines.stages.alignment.environments.episodes import ENVIRONMENT, Episodes
from pipelines.stages.alignment.environments.files import files_of, index_corpus
from pipelines.stages.alignment.packing import micro_batches
from pipelines.stages.alignment.prompts import Prompt
from pipelines.stages.alignment.rewards.pool import Pool
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.generation.engine import Completion
from pipelines.stages.tuning.templates import prepare
from tests.made import make
from tests.tuning.tokenizers import by_hand

OWN = "tests.alignment.own_rewards"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3 * 4", "12"),
        ("2 + 3 * (4 - 1)", "11"),
        ("1/3", "0.333333333333"),
        ("0.1 + 0.2", "0.3"),
        ("2^10", "1024"),
        ("2 ** -1", "0.5"),
        ("-7 // 2", "-4"),
        ("17 % 5", "2"),
        ("sqrt(16) + abs(-2)", "6"),
        ("max(1, 2, 3)", "3"),
        ("6 × 7 ÷ 2 − 1", "20"),
        ("10**30", "1" + "0" * 30),
    ],
)
def test_the_calculator(text: str, value: str) -> None:
    assert calculate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "x + 1",
        "'a' * 3",
        "[1] * 9",
        "9**9**9**9",
        "(1/3)**100000",
        "1/0",
        "(-1)**0.5",
        "True + 1",
        "lambda: 1",
        "(" * 150,
        "1" * 300,
        "abs(x=1)",
        "1; 2",
        "",
    ],
)
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        calculate(text)


@pytest.mark.parametrize(
    ("equations", "expected"),
    [
        ("2x + 3 = 9", "x = 3"),
        ("x^2 = 4", "x = -2 or x = 2"),
        ("x + y = 10; x - y = 2", "x = 6, y = 4"),
        (["x + y = 1"], "x = 1 - y, y = y"),
        ("x = x + 1", "no solution"),
    ],
)
def test_the_solver(equations: Any, expected: str) -> None:
    assert solve(equations) == expected


@pytest.mark.parametrize(
    "equations", ["2x + 3", "1 = 1", "a = b = c", "os.system('x') = 1", "xy = 1", "x" * 300, "x = ("]
)
def test_what_is_no_equation_is_refused(equations: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        solve(equations)


def said(answer: str) -> str | None:
    return Tools().reply(Sample([{"role": "user", "content": "?"}], answer, True))


def test_tools_answer_calls() -> None:
    called = '<tool_call>{"name": "calculator", "arguments": {"expression": "3*4"}}</tool_call>'
    assert said(f"Let me see. {called} {called.replace('3*4', '1')}") == "<tool_response>\n12\n</tool_response>"
    assert said("It is 12.") is None
    for call, words in (
        ('{"name": "browser"}', "error: there is no tool 'browser', but calculator, solver"),
        ('{"name": "calculator", "arguments": {}}', "error: 'expression' is missing"),
        ('{"name": "calculator", "arguments": {"expression": "x"}}', "error: 'x' is no number"),
        ("{]}", "error: "),
        ('{"name": "calculator", "arguments": [1]}', "error: "),
    ):
        assert words in str(said(f"<tool_call>{call}</tool_call>"))
    assert said('<tool_call>{"name"</tool_call>') is None, "no call at all"


TALK = {  # what the model says, by what was said to it last
    "Begin.": "one",
    "one?": "two words",
    "two words?": "done",
    "Stop.": "done",
    "Fail.": "fail",
    "error: failed: RuntimeError: no": "oh",
    "Ramble.": "on and " * 30,
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = by_hand()
    prepare(found, "chatml")
    return found


@pytest.fixture
def play(tokenizer: Any) -> Iterator[Callable[..., list[Completion]]]:
    pools: list[Pool] = []

    def draw(prompts: list[list[int]], seeds: list[int], max_tokens: int) -> list[Completion]:
        """What an engine would draw of a model that has learned TALK by heart."""
        drawn = []
        for prompt in prompts:
            asked = max(TALK, key=lambda each: tokenizer.decode(prompt).rfind(each))
            turn = encode(
                tokenizer, [{"role": "user", "content": asked}, {"role": "assistant", "content": TALK[asked]}]
            )
            tokens = [token for token, learn in zip(turn.tokens, turn.learn, strict=True) if learn]
            cut = tokens[:max_tokens]
            drawn.append(Completion(cut, [-float(token) for token in cut], len(tokens) <= max_tokens))
        return drawn

    def played(environment: Environment, *requests: str, max_tokens: int = 400) -> list[Completion]:
        pools.append(Pool({ENVIRONMENT: environment}, 0, 1, 1 << 30, "environments"))
        prompts = [prompt(tokenizer, request) for request in requests]
        return Episodes(environment, tokenizer, max_tokens, pools[-1], 60, draw)(prompts, [1] * len(prompts), list)

    yield played
    for pool in pools:
        pool.close()


def prompt(tokenizer: Any, request: str) -> Prompt:
    messages = [{"role": "user", "content": request}]
    return Prompt(request, messages, prompt_tokens(tokenizer, messages))


def test_of_an_episode_is_learned_what_tuning_learns_of_the_same_conversation(
    tokenizer: Any, play: Callable[..., list[Completion]]
) -> None:
    environment = PythonEnvironment(function=f"{OWN}:asks_back", turn_tokens=100)
    requests = ("Begin.", "Stop.", "Fail.", "Ramble.")
    answers = play(environment, *requests)
    error = str(answers[2].replies[0]["content"])  # with the line of the source
    talks = (["one", "one?", "two words", "two words?", "done"], ["done"], ["fail", error, "oh"])
    for request, answer, talk in zip(requests, answers, talks, strict=False):
        messages = [{"role": "user", "content": request}]
        messages += [{"role": ("assistant", "user")[turn % 2], "content": text} for turn, text in enumerate(talk)]
        whole, begin = encode(tokenizer, messages), len(prompt(tokenizer, request).tokens)
        end = begin + len(answer.tokens)
        assert answer.tokens == whole.tokens[begin:end] and answer.mine == whole.learn[begin:end]
        assert answer.finished and answer.logprobs == [-float(t) for turn in answer.turns() for t in turn]
        seen = Sample.of(tokenizer, messages[:1], answer)
        assert seen.answer == talk[-1] and seen.messages == messages[:-1]
    assert error.startswith("error: failed: RuntimeError: no (")
    assert not answers[3].finished and not answers[3].replies and len(answers[3].tokens) == 100
    [(_, batch)] = micro_batches([prompt(tokenizer, request) for request in requests], answers, 4)
    assert batch["learn"].sum(1).tolist() == [len(answer.logprobs) for answer in answers]
    assert torch.equal(batch["behaviour"], torch.where(batch["learn"], -batch["tokens"][:, 1:].float(), 0))


def test_an_answer_ends_where_turns_or_room_end(play: Callable[..., list[Completion]]) -> None:
    function = f"{OWN}:asks_back"
    [two] = play(PythonEnvironment(function=function, turns=2, turn_tokens=40), "Begin.")
    assert len(two.turns()) == 2 and two.finished
    [small] = play(PythonEnvironment(function=function, turn_tokens=40), "Begin.", max_tokens=50)
    assert len(small.turns()) == 1 and not small.finished and not small.replies, "no room for another whole turn"


def test_an_environment_in_a_spec() -> None:
    made = convert({"environment": {"type": "tools", "tools": ["calculator"]}}, RlhfSpec, "rlhf")
    assert made.environment == Tools(tools=("calculator",))
    with pytest.raises(SpecError, match=r"environment.turn_tokens: two turns of 100 tokens are more than .* 128"):
        convert({"environment": {"type": "tools", "turn_tokens": 100}}, RlhfSpec, "rlhf")
    with pytest.raises(SpecError, match=r"rlhf.environment: nowhere:f cannot be imported"):
        PythonEnvironment(function="nowhere:f").require()


def test_moss_names_call_the_same_tools() -> None:
    """By the one argument, whatever it is called."""
    for name, arguments, expected in (
        ("Calculate", {"expression": "24/(1-0.8)"}, "120"),
        ("Solve", {"equation": "2x + 3 = 9"}, "x = 3"),
        ("calculator", {"argument": "3*4"}, "12"),
    ):
        call = json.dumps({"name": name, "arguments": arguments})
        assert said(f"<tool_call>{call}</tool_call>") == f"<tool_response>\n{expected}\n</tool_response>"


DOCUMENTS = [
    ("cats", "A cat sleeps. The cat purrs, and then the cat sleeps again."),
    ("dogs", "A dog barks at a cat, and the cat runs away from the dog and from the whole street full of dogs."),
    ("复旦", "复旦大学位于上海市，是中国的一所大学。"),
    ("北京", "北京大学位于北京市。"),
    ("long", f"{'filler ' * 200}The needle is here. {'filler ' * 200}"),
]


@pytest.fixture
def index(tmp_path: Path) -> Search:
    assert write_index(tmp_path / "index", DOCUMENTS) == 5
    return Search(tmp_path / "index")


@pytest.mark.parametrize("query", ["cat", "cat dog", "sleeps", "the dog sleeps"])
def test_search_ranks_as_bm25_does(index: Search, query: str) -> None:
    """By its formula in plain Python, k1 1.2 and b 0.75; a word that most documents have weighs next to nothing."""
    words = [re.findall(r"\w+", text.lower()) if name.isascii() else list(text) for name, text in DOCUMENTS]
    words = [[w for w in each if w not in "，。"] for each in words]
    mean = sum(map(len, words)) / len(words)
    scores = []
    for number, each in enumerate(words):
        score = 0.0
        for word in query.split():
            having = sum(word in other for other in words)
            idf = max(1e-6, math.log((len(words) - having + 0.5) / (having + 0.5)))
            often = each.count(word)
            score += idf * often * 2.2 / (often + 1.2 * (0.25 + 0.75 * len(each) / mean))
        scores.append((-score, number))
    expected = [DOCUMENTS[number][0] for score, number in sorted(scores) if score]
    assert [line.split(". ")[1].split(":")[0] for line in index(query, 5).splitlines()] == expected


def test_search_shows_passages(index: Search) -> None:
    assert index("Needle", 1) == index("NEEDLE!", 1)
    assert re.fullmatch(
        r"1\. long: \.\.\. \w* (filler )+The needle is here\. (filler )+\w* ?\.\.\.", index("needle", 3)
    )
    assert index("北京大学", 1).startswith("1. 北京: 北京大学")
    assert index("上海的大学", 2).startswith("1. 复旦: ")
    assert index('cat" OR NEAR(', 1).startswith("1. "), "a query is words, and no expression of SQLite's"
    assert index("zebra", 3) == "nothing found"
    for query in ("", "?!", ["cat"]):
        with pytest.raises(ValueError, match="a query is"):
            index(query, 1)  # type: ignore[arg-type]


def test_search_is_a_tool_of_a_process_of_its_own(tmp_path: Path) -> None:
    """The corpus is an artifact, whose index is made once."""
    rows = [{"id": name, "text": text} for name, text in DOCUMENTS]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    corpus = make(Store(tmp_path / "store"), CorpusSpec(), {}, {"train/part-0.parquet": table.getvalue()}, "c")
    state = Location(tmp_path / "state")
    index_corpus(corpus, state)
    written = state.digest(INDEX_FILE)
    index_corpus(corpus, state)
    assert state.digest(INDEX_FILE) == written
    environment = Tools(tools=("search",), results=1)
    pool = Pool({ENVIRONMENT: environment}, 0, 1, 1 << 30, "environments", files_of(True, state))
    called = '<tool_call>{"name": "Search", "arguments": {"query": "who purrs?"}}</tool_call>'
    try:
        [answer] = pool.call([Sample([{"role": "user", "content": "?"}], called, True)], 60)[ENVIRONMENT]
    finally:
        pool.close()
    assert answer == f"<tool_response>\n1. cats: {DOCUMENTS[0][1]}\n</tool_response>"
    assert files_of(False, state) == {}


def test_search_and_its_corpus_go_together() -> None:
    spec = convert({"environment": {"type": "tools", "tools": ["search"]}}, RlhfSpec, "rlhf")
    with pytest.raises(SpecError, match="`search` and the input `corpus` go together"):
        spec.check_inputs({"model": None, "prompts": None})
    spec.check_inputs({"model": None, "prompts": None, "corpus": None})
    assert "corpus" in RlhfSpec().unused_inputs() and "corpus" not in spec.unused_inputs()
