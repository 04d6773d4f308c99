"""Tasks of reasoning-gym: made, checked, and refused where the package is missing."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from cluster.core.build import build
from cluster.core.errors import NotReadyError, SpecError
from cluster.core.specs.spec import convert
from cluster.core.storage.store import Store
from pipelines.specs import ReasoningGym, RlhfSpec, TasksSpec
from pipelines.stages.alignment.rewards.sample import Sample
from pipelines.stages.tuning.conversations import read_conversations

ASKED = [{"role": "user", "content": "?"}]


@pytest.fixture
def gym() -> None:
    pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")


def test_without_the_package_it_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    for ask in (ReasoningGym().require, lambda: build(TasksSpec(), {}, store=store, name="t")):
        with pytest.raises(NotReadyError, match="reasoning-gym is needed for its tasks") as caught:
            ask()
        assert "pip install reasoning-gym" in caught.value.remedy


def test_fields_of_tasks() -> None:
    with pytest.raises(SpecError, match=r"tasks\.options: other is not among tasks.tasks"):
        convert({"options": {"other": {}}}, TasksSpec, "tasks")
    with pytest.raises(SpecError, match="names no data set"):
        convert({"tasks": {}}, TasksSpec, "tasks")
    assert RlhfSpec.inputs["prompts"].endswith("|tasks")
    for wrong in ("no json", "{}", '{"metadata": 1}', "[]"):
        with pytest.raises(ValueError, match="is no task"):
            ReasoningGym().check_reference(wrong)


def tasks(store: Store, **fields: Any) -> dict[str, list[dict[str, Any]]]:
    made = build(TasksSpec(**fields), {}, store=store, name="t")
    return {split: list(read_conversations(made.local(), split)) for split in ("train", "heldout")}


@pytest.mark.usefixtures("gym")
def test_tasks_are_checked_by_their_own_checkers(store: Store) -> None:
    found = tasks(store, tasks={"chain_sum": 20, "leg_counting": 10}, options={"chain_sum": {"max_terms": 3}})
    assert (len(found["train"]), len(found["heldout"])) == (28, 2)
    assert found == tasks(store, tasks={"chain_sum": 20, "leg_counting": 10}, options={"chain_sum": {"max_terms": 3}})
    for row in [*found["train"], *found["heldout"]]:
        ReasoningGym().check_reference(row["reference"])
        entry = json.loads(row["reference"])
        assert row["messages"][0]["content"].startswith(entry["question"])

        def worth(answer: str, finished: bool = True, reference: str = row["reference"]) -> float:
            return ReasoningGym().of(Sample(ASKED, answer, finished, reference=reference))

        assert worth(entry["answer"]) == worth(f"Well: <answer> {entry['answer']} </answer>.") == 1
        assert worth(f"<answer>{entry['answer']}</answer> or <answer>no</answer>") < 1
        assert worth(entry["answer"], finished=False) == 0


@pytest.mark.usefixtures("gym")
def test_what_the_package_refuses_is_said(store: Store) -> None:
    for fields, words in (
        ({"tasks": {"chain_sums": 4}}, "no data set 'chain_sums'. Did you mean 'chain_sum'"),
        ({"options": {"chain_sum": {"max_terms": 0}}}, "tasks.options.chain_sum: "),
        ({"options": {"chain_sum": {"colour": 1}}}, "tasks.options.chain_sum: .*colour"),
    ):
        with pytest.raises(SpecError, match=words):
            tasks(store, **fields)  # type: ignore[arg-type]
