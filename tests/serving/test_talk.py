"""Conversations as text for base models, and the cut where such a model begins to speak for the user."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.artifact import Artifact
from serving.in_process import InProcess
from serving.talk import Sampling, transcript, until_user

STOP = "\n\nUser:"


def test_transcript() -> None:
    messages = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "ho"}]
    assert transcript(messages) == "User: hi\n\nAssistant: ho\n\nAssistant:"


@given(pieces=st.lists(st.text("\nUser: ab", max_size=9)))
def test_until_user_is_split_at_the_stop_text(pieces: list[str]) -> None:
    assert "".join(until_user(iter(pieces))) == "".join(pieces).split(STOP, 1)[0]


def test_stopping_early_ends_the_model(model: Artifact) -> None:
    stream = InProcess(model).complete("def", Sampling(max_tokens=200))
    assert next(stream)
    stream.close()


def test_in_process_chat_continues_the_transcript(model: Artifact) -> None:
    assert "".join(InProcess(model).answer([{"role": "user", "content": "hi"}], Sampling(max_tokens=8)))
