"""Environments of the package verifiers: their tasks, what they say, and what an answer is worth, by their own code.

The package is not part of the installation: what needs it runs where it is, as after `pip install 'verifiers<0.4'` in
a virtual environment of its own. All of them passed with 0.3.1, and with 0.1.14.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.core.build import build
from cluster.core.errors import NotReadyError, SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.store import Store
from pipelines.specs import RlhfSpec, TasksSpec, VerifiersEnvironment, VerifiersReward
from pipelines.stages.alignment.environments.episodes import ENVIRONMENT
from pipelines.stages.alignment.rewards.pool import Failed, Pool
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.alignment.tasks import package
from pipelines.stages.alignment.tasks.playing import Task, calls_of
from pipelines.stages.tuning.conversations import read_conversations

NAME = "tests.alignment.echo_environment"


@pytest.fixture
def installed() -> None:
    try:
        package.verifiers()
    except NotReadyError as error:
        pytest.skip(str(error))


def test_without_the_package_it_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers", None)
    spec = TasksSpec(source="verifiers", tasks={"game": 4})
    for ask in (
        VerifiersReward().require,
        VerifiersEnvironment().require,
        lambda: build(spec, {}, store=store, name="t"),
    ):
        with pytest.raises(NotReadyError, match="verifiers is needed for its environments") as caught:
            ask()
        assert "pip install 'verifiers" in caught.value.remedy


@pytest.mark.parametrize("release", ["0.1.14", "0.2.1", "0.3.1", "0.3.2rc1"])
def test_releases_that_are_played(release: str) -> None:
    package.check_version(release)


@pytest.mark.parametrize("release", ["0.1.9.post3", "0.4.0", "1.0"])
def test_releases_whose_environments_are_others(release: str) -> None:
    with pytest.raises(NotReadyError, match=f"verifiers {release} has no environments"):
        package.check_version(release)


def test_calls_are_read_as_the_chat_template_writes_them() -> None:
    call = '<tool_call>\n{"name": "double", "arguments": {"number": 3}}\n</tool_call>'
    said, calls = calls_of(f"Well.\n{call}{call}")
    assert said == "Well." and [each["id"] for each in calls] == ["call_0", "call_1"]
    assert calls[0]["name"] == "double" and json.loads(calls[0]["arguments"]) == {"number": 3}
    for text in ("no call", '<tool_call>{"name"}</tool_call>', f"{call}<tool_call>{{}}</tool_call>"):
        assert calls_of(text) == (text, [])


def test_what_is_no_example_is_refused() -> None:
    for wrong in ("no json", "{}", '{"environment": "e", "options": {}}', "[]"):
        with pytest.raises(ValueError, match="is no example"):
            Task.of(wrong)
        for each in (VerifiersReward(), VerifiersEnvironment()):
            with pytest.raises(ValueError, match="is no example"):
                each.check_reference(wrong)
    spec = convert({"environment": {"type": "verifiers"}, "rewards": {"verifiers": 1.0}}, RlhfSpec, "rlhf")
    assert spec.environment == VerifiersEnvironment()


def tasks(store: Store, count: int = 4, **options: Any) -> list[dict[str, Any]]:
    spec = TasksSpec(source="verifiers", tasks={NAME: count}, options={NAME: options} if options else {})
    made = build(spec, {}, store=store, name="t")
    assert made.metrics["verifiers"] == importlib.metadata.version("verifiers")
    return [row for split in ("train", "heldout") for row in read_conversations(made.local(), split)]


@pytest.fixture
def pools() -> Iterator[dict[str, Pool]]:
    """Environment and reward in processes of their own, as while a model trains."""
    made = {
        "said": Pool({ENVIRONMENT: VerifiersEnvironment()}, 0, 1, 8 << 30, "environments"),
        "worth": Pool({"verifiers": VerifiersReward(on_failure="skip")}, 0, 1, 8 << 30),
    }
    yield made
    for pool in made.values():
        pool.close()


def played(pools: dict[str, Pool], row: dict[str, Any], turns: list[str]) -> tuple[list[Any], Any]:
    """What an environment says to each turn, and what the answer is worth at its end."""
    messages, replies = row["messages"], []
    for turn in turns:
        sample = Sample(messages, turn, True, reference=row["reference"])
        (reply,) = pools["said"].call([sample], 240)[ENVIRONMENT]
        replies.append(reply)
        if not isinstance(reply, str):
            break
        messages = [*messages, {"role": "assistant", "content": turn}, {"role": "user", "content": reply}]
    return replies, pools["worth"].score([sample], 240)["verifiers"][0]


@pytest.mark.usefixtures("installed")
@pytest.mark.timeout(600)
def test_a_game_is_played_to_its_end(store: Store, pools: dict[str, Pool]) -> None:
    """Its state goes on from turn to turn, though each turn is played from the beginning; dice fall alike."""
    rows = tasks(store)
    assert len(rows) == 4 and len({row["id"] for row in rows}) == 4
    row = next(row for row in rows if int(json.loads(row["reference"])["example"]["answer"]) not in (0, 9))
    answer = json.loads(row["reference"])["example"]["answer"]
    assert [message["role"] for message in row["messages"]] == ["system", "user"] and "tools" not in row
    replies, worth = played(pools, row, ["0", "9", answer])
    first, second, end = replies
    assert first.startswith("higher, ") and first.endswith("guess 1")
    assert second.startswith("lower, ") and second.endswith("guess 2") and end is None
    assert worth == pytest.approx(1 - 0.2)  # of 5 messages
    assert played(pools, row, [answer]) == ([None], pytest.approx(1 + 2))
    assert played(pools, row, ["0", "0", "0", "0"])[0][3] is None, "the environment's own bound"


@pytest.mark.usefixtures("installed")
@pytest.mark.timeout(600)
def test_tools_are_called_and_answer(store: Store, pools: dict[str, Pool]) -> None:
    row = tasks(store, kind="tools")[0]
    assert row["tools"][0]["function"]["name"] == "double"
    call = '<tool_call>\n{"name": "double", "arguments": {"number": 21}}\n</tool_call>'
    assert played(pools, row, [call, "It is 42."]) == (["<tool_response>\n42\n</tool_response>", None], 1.0)
    assert played(pools, row, ["It is 42."]) == ([None], 0.0)


@pytest.mark.usefixtures("installed")
@pytest.mark.timeout(600)
def test_what_cannot_be_learned_from_is_said(store: Store, pools: dict[str, Pool]) -> None:
    row = tasks(store)[0]
    replies, worth = played(pools, row, ["fail"])
    assert isinstance(replies[0], Failed) or "no such guess" in str(replies[0])
    replies, worth = played(pools, tasks(store, kind="dice")[0], ["10", "10"])
    assert isinstance(worth, Failed) and "the environment says" in worth.why
    with pytest.raises(SpecError, match="comparing them with others of their group"):
        tasks(store, kind="group")
    with pytest.raises(SpecError, match="verifiers cannot load it"):
        tasks(store, colour="red")
