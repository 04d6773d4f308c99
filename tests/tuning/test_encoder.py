"""Rows that a template refuses: set aside and counted, until there are too many."""

from __future__ import annotations

import pytest

from cluster.core.errors import InputError
from pipelines.stages.tuning.encoder import Encoder
from pipelines.stages.tuning.templates import prepare
from tests.tuning.tokenizers import by_hand

ASK, YES = {"role": "user", "content": "ask"}, {"role": "assistant", "content": "yes"}
THINKING = {**YES, "reasoning_content": "hm"}


def test_one_record_that_a_template_refuses_is_that_records_rejection() -> None:
    tokenizer = by_hand()
    prepare(tokenizer, "gemma")
    encoder = Encoder(tokenizer)
    rows = [
        {"id": "good", "messages": [ASK, YES]},
        {"id": "thinks", "messages": [ASK, THINKING]},
        {"id": "two", "messages": [ASK, ASK, YES]},
        {"id": "context", "messages": [ASK, {**YES, "learn": False}]},
        {"id": "also good", "messages": [ASK, YES, ASK, YES]},
    ]
    assert [len(encoder(row)) for row in rows] == [1, 0, 0, 0, 1]
    thoughts = "has no place for the assistant's thoughts"
    turns = "refuses it: Conversation roles must alternate user/assistant/user/assistant/..."
    assert encoder.refused == {"thinks": thoughts, "two": turns}
    encoder.require("conversations/mine, train")
    for number in range(3):
        encoder({"id": f"more {number}", "messages": [ASK, THINKING]})
    assert encoder.reasons() == {thoughts: 4, turns: 1}
    words = r"conversations/mine, train: the chat template cannot render 5 of 8 .* of 4 .* no place for the assistant's"
    with pytest.raises(InputError, match=words):
        encoder.require("conversations/mine, train")
