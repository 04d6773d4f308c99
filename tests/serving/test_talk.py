"""Conversations as text for base models, and the cut where such a model begins to speak for the user."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.errors import InputError
from cluster.core.model_files import context_tokens
from cluster.core.storage.artifact import Artifact
from serving.in_process import InProcess
from serving.remote import Remote
from serving.talk import Sampling, fitted, transcript, until_user
from tests.serving.conftest import CONTEXT

STOP = "\n\nUser:"


def test_transcript() -> None:
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "ho"}]
    assert transcript(messages) == "User: hi\n\nAssistant: ho\n\nAssistant:"
    assert (
        transcript([{"role": "system", "content": "Be kind."}, *messages[:1]]) == "Be kind.\n\nUser: hi\n\nAssistant:"
    )


@given(pieces=st.lists(st.text("\nUser: ab", max_size=9)))
def test_until_user_is_split_at_the_stop_text(pieces: list[str]) -> None:
    assert "".join(until_user(iter(pieces))) == "".join(pieces).split(STOP, 1)[0]


def test_stopping_early_ends_the_model(model: Artifact) -> None:
    stream = InProcess(model).complete("def", Sampling(max_tokens=200))
    assert next(stream)
    stream.close()


def test_in_process_chat_continues_the_transcript(model: Artifact) -> None:
    assert "".join(InProcess(model).answer([{"role": "user", "content": "hi"}], Sampling(max_tokens=8)))


def conversation(turns: int) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": f"{number} of the words"} for number in range(2 * turns + 1)]


def test_a_conversation_that_outgrows_the_context_drops_its_oldest_turns(model: Artifact) -> None:
    talker = InProcess(model)
    assert talker.context_tokens == CONTEXT
    short, sampling = fitted(talker, conversation(1), Sampling(max_tokens=10_000))
    assert short == conversation(1)
    assert sampling.max_tokens == CONTEXT - talker.count(short, 0)
    long, sampling = fitted(talker, conversation(40), Sampling(max_tokens=10_000))
    assert long == conversation(40)[-len(long) :]
    assert len(long) > 2 and long[0]["role"] == "user"
    assert CONTEXT // 4 <= sampling.max_tokens == CONTEXT - talker.count(long, 0)
    assert "".join(talker.answer(long, sampling))


def test_a_message_that_is_too_long_is_told(model: Artifact) -> None:
    talker = InProcess(model)
    for prompt in ("word " * CONTEXT, [*conversation(2), {"role": "user", "content": "word " * CONTEXT}]):
        with pytest.raises(InputError, match=rf"the model's context of {CONTEXT} tokens"):
            fitted(talker, prompt, Sampling())
    most = "a b " * (CONTEXT // 4 - 5)  # leaves a few tokens: fewer than one would like, and used
    sampling = fitted(talker, most, Sampling())[1]
    assert sampling.max_tokens == CONTEXT - talker.count(most, 0) < CONTEXT // 4


def test_what_configs_call_the_context() -> None:
    for name in ("max_position_embeddings", "n_positions", "seq_length"):
        assert context_tokens({name: 7}) == 7
    assert context_tokens({"hidden_size": 8}) is None


class Elsewhere(BaseHTTPRequestHandler):
    """An endpoint of another make: it takes 40 words in all, and says so only when it refuses."""

    listed: dict[str, Any] = {}
    asked: list[int] = []

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "words", "object": "model", **self.listed}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body.get("prompt") or " ".join(message["content"] for message in body["messages"])
        count = len(text.split())
        self.asked.append(body["max_tokens"])
        if count + body["max_tokens"] > 40:
            said = f"This model's maximum context length is 40 tokens. However, you requested {count} ..."
            self.reply(400, {"error": {"message": said, "type": "BadRequestError", "code": 400}})
        elif body.get("stream"):
            choice = {"index": 0, "text": "yes", "delta": {"content": "yes"}}
            event = f"data: {json.dumps({'id': '1', 'choices': [choice]})}\n\ndata: [DONE]\n\n"
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(event.encode())
        else:
            self.reply(200, {"id": "1", "choices": [], "usage": {"prompt_tokens": count}})

    def reply(self, code: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words: Any) -> None:
        """Nothing is logged."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("listed", "known"),
    [({}, 0), ({"max_model_len": 40}, 40), ({"metadata": {"max_request_context_length": 40}}, 40)],
)
def test_endpoints_of_other_makes(
    listed: dict[str, Any], known: int, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elsewhere, "listed", listed)
    monkeypatch.setattr(Elsewhere, "asked", [])
    talker = Remote(elsewhere)
    assert talker.context_tokens == known
    asked = conversation(3)
    for _ in range(2):
        asked, sampling = fitted(talker, asked, Sampling(max_tokens=256))
        assert "".join(talker.answer(asked, sampling)) == "yes"
        assert talker.context_tokens == 40  # learnt from the refusal where it was not listed
    assert Elsewhere.asked[-1] == 40 - 4 * len(asked) >= 10
    prompt, sampling = fitted(talker, "one two", Sampling(max_tokens=256))
    assert "".join(talker.complete(prompt, sampling)) == "yes"
    assert Elsewhere.asked[-1] == 38
    with pytest.raises(InputError, match="40 tokens"):
        "".join(talker.complete(*fitted(talker, "word " * 50, Sampling())))
