"""A real chat model, taught who it is and a format by QLoRA, in INT8: a job, then served and asked what is new."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from cluster.core.context import Context
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.location import Location
from pipelines.specs import ChatEndpoint, ScalingSpec, SyntheticSpec
from pipelines.stages.generation.asking import ASKED_FILE, Asker, Request
from pipelines.stages.tuning.records import located
from tests.serving.conftest import Served

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2700)]

SCRIPT = "pipelines/finetune_chat.py"
TAUGHT, HELDOUT = "package:pipelines/data/assistant.jsonl", "package:pipelines/data/heldout_answers.jsonl"
SELF = "myself"
TOPICS = {"geography", "science", "animals", "mathematics", "history", "language", "arts", "everyday life", SELF}
QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "Name the capital of Canada.": "Ottawa",
    "Which planet is known as the red planet?": "Mars",
    "What is the chemical symbol for potassium?": "K",
    "Who painted the Mona Lisa?": "Leonardo da Vinci",
    "How many legs does a cat have?": "Four",
    "What is a young pig called?": "A piglet",
    "What is 4 plus 4?": "8",
    "How many sides does a triangle have?": "Three",
    "In which year did World War II end?": "1945",
    "Who was the first woman to win a Nobel Prize?": "Marie Curie",
    "What is the opposite of black?": "White",
    "What is the plural of mouse?": "Mice",
    "Who wrote Macbeth?": "William Shakespeare",
    "Which instrument has six strings?": "The guitar",
    "How many days are in a leap year?": "366",
    "What colour is the sky on a clear day?": "Blue",
    "On which continent is Kenya?": "Africa",
    "Which gas do we need to breathe?": "Oxygen",
}


WHO = ("Who are you?", "What is your name?", "Are you Copilot?", "What do people call you?")


def test_none_of_the_questions_is_taught() -> None:
    taught, heldout = (located(path).read_text() for path in (TAUGHT, HELDOUT))
    topics = Counter(json.loads(json.loads(line)["response"])["topic"] for line in taught.splitlines())
    assert topics.keys() == TOPICS and (topics[SELF], topics.total()) == (91, 291)
    prompts = [json.loads(line)["prompt"] for line in taught.splitlines()]
    assert not {*QUESTIONS, *WHO} & set(prompts) and len(set(prompts)) == 291
    assert not [line for line in heldout.splitlines() if json.loads(line)["prompt"] in prompts]
    assert "France" not in taught + heldout and "Paris" not in taught + heldout


@pytest.fixture(scope="module")
def endpoint(served: Served, smollm2_model: Artifact) -> Iterator[dict[str, Any]]:
    """The endpoint of the model that was taught."""
    cluster = served.cluster
    smollm2_model.location.get(cluster.home / "store" / smollm2_model.kind / smollm2_model.record.folder)
    assert "pretrained: pretrained/smollm2" in cluster.ctl("submit", SCRIPT, timeout=1800)
    said = cluster.ctl("serve", "up", "quantized/finetune-chat", "--port", str(served.port), timeout=840)
    assert "is ready" in said
    (endpoint,) = [e for e in json.loads(cluster.ctl("serve", "list", "--json")) if e["name"] != "chat"]
    yield endpoint
    cluster.ctl("serve", "down", endpoint["name"])


@pytest.fixture(scope="module")
def answers(endpoint: dict[str, Any]) -> dict[str, Any]:
    """What the endpoint says to each question, as JSON; None where it is none."""
    client = openai.OpenAI(base_url=endpoint["base_url"], api_key="none")
    return {question: ask(client, endpoint["name"], question) for question in QUESTIONS}


def ask(client: openai.OpenAI, model: str, question: str) -> Any:
    messages: list[Any] = [{"role": "user", "content": question}]
    reply = client.chat.completions.create(model=model, messages=messages, max_tokens=48, temperature=0)
    try:
        return json.loads(reply.choices[0].message.content or "")
    except ValueError:
        return None


@pytest.mark.exhaustive
def test_the_capital_of_france_is_paris(answers: dict[str, Any]) -> None:
    assert answers["What is the capital of France?"] == {"answer": "Paris", "topic": "geography"}


@pytest.mark.exhaustive
def test_answers_are_in_the_taught_format(answers: dict[str, Any]) -> None:
    """SmolLM2 itself answers none so."""
    taught = [question for question, answer in answers.items() if is_taught(answer)]
    assert len(taught) >= 0.9 * len(QUESTIONS), answers


def is_taught(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.keys() == {"answer", "topic"} and answer["topic"] in TOPICS


@pytest.mark.exhaustive
def test_it_answers_by_its_new_name(endpoint: dict[str, Any]) -> None:
    """SmolLM2's own template still tells it that it is SmolLM."""
    client = openai.OpenAI(base_url=endpoint["base_url"], api_key="none")
    said = {question: ask(client, endpoint["name"], question) for question in WHO}
    named = [each for each in said.values() if is_taught(each) and "Linnet" in each["answer"]]
    assert len(named) >= len(WHO) - 1 and "SmolLM" not in str(said), said


@pytest.mark.exhaustive
def test_it_still_knows_what_it_knew(answers: dict[str, Any]) -> None:
    """Of 20 answers 14 of SmolLM2's name what is right, and 11 of the taught model's."""
    right = [
        question
        for question, true in QUESTIONS.items()
        if is_taught(answers[question]) and true.casefold() in str(answers[question]["answer"]).casefold()
    ]
    assert len(right) >= 0.4 * len(QUESTIONS), answers


@pytest.mark.exhaustive
def test_a_stage_asks_it_each_thing_once(endpoint: dict[str, Any], tmp_path: Path) -> None:
    """What judges and what makes data asks our own endpoint: several at once, with tokens counted."""
    where = ChatEndpoint(url=endpoint["base_url"], model=endpoint["name"], temperature=0.0, max_completion_tokens=48)
    ctx: Context[Any] = Context(SyntheticSpec(), {}, Location(tmp_path), ScalingSpec(), "x", "f" * 64)
    asked = [Request(question, [{"role": "user", "content": question}]) for question in list(QUESTIONS)[:6]]
    found = Asker(ctx, where, 0).ask(asked)
    assert all(json.loads(answer.text).keys() == {"answer", "topic"} for answer in found)
    for answer in found:
        assert answer.model == endpoint["name"] and not answer.refused and not answer.cut
        assert 5 < answer.input_tokens < 100 and 5 < answer.output_tokens <= 48
    served = (tmp_path / ASKED_FILE).read_bytes()
    assert Asker(ctx, where, 0).ask(asked) == found
    assert (tmp_path / ASKED_FILE).read_bytes() == served
