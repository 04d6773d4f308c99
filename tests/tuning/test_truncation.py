"""Conversations that are longer than a sequence: each policy, what it leaves, and that its counts add up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.encoding import Encoded, encode
from cluster.core.errors import InputError
from pipelines.stages.tuning.templates import prepare
from pipelines.stages.tuning.truncation import Fitting, Row
from tests.tuning.tokenizers import by_hand


def words(row: Row) -> list[Encoded]:
    """One example of a conversation: a token a word, and one that ends an answer; answers are learned."""
    tokens: list[int] = []
    learn: list[bool] = []
    for message in row["messages"]:
        answer = message["role"] == "assistant"
        found = [len(word) for word in message["content"].split()] + [0] * answer
        tokens += found
        learn += [answer and message.get("learn", True)] * len(found)
    return [Encoded(tokens, learn)]


def apart(row: Row) -> list[Encoded]:
    """One example for each answer, as templates make that rewrite history."""
    messages = row["messages"]
    cuts = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    found = [words({"messages": messages[: cut + 1]})[0] for cut in cuts]
    for one in found:
        last = len(one.learn) - 1 - one.learn[::-1].index(False)
        one.learn[: last + 1] = [False] * (last + 1)
    return found


def conversation(*turns: tuple[int, int], system: int = 0, id: str = "a") -> Row:
    """Of turns of so many words asked and answered."""
    messages: list[Any] = [{"role": "system", "content": "s " * system}] if system else []
    for asked, answered in turns:
        messages.append({"role": "user", "content": "uu " * asked})
        messages.append({"role": "assistant", "content": "aaa " * answered})
    return {"id": id, "messages": messages}


LONG = conversation((3, 2), (2, 4), (1, 1), system=2)  # 2 + 6 + 7 + 3 tokens


@pytest.mark.parametrize(
    ("longest", "policy", "kept", "learned"),
    [
        (18, "reject", [18], 10),
        (17, "reject", [], 0),
        (17, "cut-turns", [12], 7),  # the first turn gone
        (11, "cut-turns", [5], 2),  # the second, too
        (4, "cut-turns", [], 0),
        (17, "cut-end", [17], 9),  # the answer's last word, and no end of the turn
        (6, "cut-end", [6], 1),
        (5, "cut-end", [], 0),  # nothing but a prompt
    ],
)
def test_a_policy(longest: int, policy: Any, kept: list[int], learned: int) -> None:
    fitting = Fitting(words, longest, policy)
    found = fitting.of(LONG)
    assert [len(one.tokens) for one in found] == kept
    assert sum(sum(one.learn) for one in found) == learned
    assert fitting.counts["lost_tokens"] == 18 - sum(kept)
    cut = bool(kept) and kept != [18]
    assert fitting.counts == {
        "conversations": len(kept),
        "cut": cut,
        "too_long": not kept,
        "nothing_to_learn": 0,
        "lost_tokens": 18 - sum(kept),
    }


def test_the_oldest_turns_go_whole_and_the_system_message_stays() -> None:
    """With what a tool answered; and by the real template, which renders what is left as if it had begun there."""
    tokenizer = by_hand()
    prepare(tokenizer, "chatml")
    system, ask = {"role": "system", "content": "Be brief"}, {"role": "user", "content": "ask"}
    more, yes = {"role": "user", "content": "ask more"}, {"role": "assistant", "content": "yes"}
    tool = {"role": "tool", "content": "no no"}
    row = {"id": "a", "messages": [system, ask, yes, tool, yes, more, yes]}
    expected = encode(tokenizer, [system, more, yes])
    fitting = Fitting(lambda row: [encode(tokenizer, row["messages"])], len(expected.tokens), "cut-turns")
    assert fitting.of(row) == [expected]


@pytest.mark.parametrize(
    ("policy", "kept"), [("reject", []), ("cut-turns", [9, 12]), ("cut-end", [8, 14])], ids=lambda one: str(one)
)
def test_a_conversation_of_an_example_for_each_answer(policy: Any, kept: list[int]) -> None:
    """Examples of 8, 15 and 18 tokens into 14; of the last nothing is learned where its end is cut."""
    assert [len(one.tokens) for one in apart(LONG)] == [8, 15, 18]
    assert [len(one.tokens) for one in Fitting(apart, 14, policy).of(LONG)] == kept


TURNS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5)


@given(st.lists(TURNS, max_size=8), st.integers(2, 40), st.sampled_from(["reject", "cut-turns", "cut-end"]))
def test_all_are_counted_and_none_is_too_long(rows: list[list[tuple[int, int]]], longest: int, policy: Any) -> None:
    given = [conversation(*turns) for turns in rows]
    fitting = Fitting(words, longest, policy)
    kept = [one for found in fitting.examples(given) for one in found]
    assert all(len(one.tokens) <= longest and any(one.learn) for one in kept)
    counts = fitting.counts
    assert counts["conversations"] + counts["too_long"] + counts["nothing_to_learn"] == len(given)
    total = sum(len(one.tokens) for row in given for one in words(row))
    assert counts["lost_tokens"] == total - sum(len(one.tokens) for one in kept)


SHORT = conversation((1, 1), id="short")


WORDY = conversation((9, 1), id="wordy")


@pytest.mark.parametrize(
    ("rows", "longest", "policy", "says"),
    [
        (
            [WORDY, SHORT],
            8,
            "reject",
            "conversations/mine, train: the prompt of conversation wordy takes 9 tokens, and",
        ),
        ([WORDY, LONG, SHORT], 4, "reject", r"\(so do 1 more\).*set sft.too_long to cut-turns or cut-end"),
        ([WORDY, SHORT], 8, "cut-turns", ""),
        ([WORDY, SHORT], 8, "cut-end", ""),
        ([conversation((1, 9)), SHORT], 8, "reject", ""),  # its answer is too long
        ([LONG, WORDY], 2, "cut-turns", r"no conversation fits into 2 tokens \(2 are.*shortest, wordy, has 11"),
    ],
)
def test_what_cannot_be_is_told_with_a_conversation(rows: list[Row], longest: int, policy: Any, says: str) -> None:
    fitting = Fitting(words, longest, policy)
    assert len(list(fitting.examples(rows))) == rows.count(SHORT)
    if says:
        with pytest.raises(InputError, match=says):
            fitting.require("conversations/mine, train")
    else:
        fitting.require("conversations/mine, train")


@pytest.mark.heavy
def test_answers_that_are_not_to_be_learned_are_counted_apart() -> None:
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "learn": False}]
    fitting = Fitting(words, 8, "reject")
    assert list(fitting.examples([{"id": "a", "messages": messages}])) == []
    assert fitting.counts["nothing_to_learn"] == 1 and fitting.counts["too_long"] == 0
    with pytest.raises(InputError, match=r"no conversation has an answer to learn \(1 are there\)"):
        fitting.require("conversations/mine, train")
