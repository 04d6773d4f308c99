"""Shipped scripts, set to other sources: what a step has no use for is neither looked up nor an ancestor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import InputError, SpecError
from cluster.core.graph import Graph, read_changes
from cluster.core.storage.store import Store
from cluster.pipeline import build, load_script
from pipelines.specs import ConversationsSpec, CorpusSpec, PreferencesSpec, SftSpec
from pipelines.stages.corpus.documents import Document
from pipelines.stages.corpus.rules.rule import apply
from tests.conftest import ROOT
from tests.export import lines

FILE = ["conversations.source=file", "conversations.path=chats.jsonl"]
PAIRS = ["preferences.source=file", "preferences.path=pairs.jsonl"]


@pytest.fixture
def own(store: Store) -> Store:
    """A store with a base model and a tuned one of one's own, and nothing of the demo."""
    texts = lines.commit(store, CorpusSpec(), {})
    base = lines.pretrained_on(store, texts, {"config.json": b"{}"})
    talks = lines.commit(store, ConversationsSpec(source="file", path="x"), {})
    lines.commit(store, SftSpec(), {"config.json": b"{}"}, model=base, conversations=talks)
    return store


def plan(store: Store, script: str, sets: list[str]) -> Graph:
    return load_script(ROOT / "pipelines" / script).graph(store, read_changes(None, sets))


@pytest.mark.parametrize(
    ("script", "sets", "step", "without"),
    [
        ("sft.py", [*FILE, "sft.inputs.model=pretrain/line"], "conversations", "corpus"),
        ("reward.py", [*PAIRS, "reward.inputs.model=sft/line"], "preferences", "conversations"),
    ],
)
def test_a_file_takes_no_other_data(own: Store, script: str, sets: list[str], step: str, without: str) -> None:
    graph = plan(own, script, sets)
    assert graph.step(step).inputs == {}
    with pytest.raises(SpecError, match=f"a file takes no {without}"):
        plan(own, script, [*sets, f"{step}.inputs.{without}={without}/line"])
    with pytest.raises(InputError, match=f"{without}/quickstart"):
        plan(own, script, [sets[-1]])  # as the script has it, the other data is wanted


def test_the_same_in_a_script_of_ones_own_and_without_a_script(own: Store, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "from cluster.pipeline import pipeline\nfrom pipelines.specs import ConversationsSpec\n\n\n@pipeline\n"
        "def mine(step):\n    return step(ConversationsSpec(source='file', path='chats.jsonl'), corpus='corpus/line')\n"
    )
    assert load_script(script).graph(own).step("conversations").inputs == {}
    specs: list[tuple[Any, str]] = [
        (ConversationsSpec(source="file", path="x"), "corpus"),
        (PreferencesSpec(source="file", path="x"), "conversations"),
    ]
    for spec, role in specs:
        with pytest.raises(SpecError, match=f"a file takes no {role}"):
            build(spec, {role: own.resolve(f"{role}/line")}, store=own, name="x")


def test_what_is_missing_is_said_before_anything_is_built(own: Store) -> None:
    for cls, words in ((ConversationsSpec, "those of a corpus"), (PreferencesSpec, "those of conversations")):
        with pytest.raises(SpecError, match=words):
            cls().check_inputs({})


def test_the_quick_demo_is_the_demo_with_fewer_of_everything(store: Store) -> None:
    script = load_script(ROOT / "pipelines" / "quickstart.py")
    whole = script.graph(store)
    quick = script.graph(store, read_changes(ROOT / "pipelines/presets/quick.yaml", []), "quick")
    assert [step.key for step in quick.steps] == [step.key for step in whole.steps]
    assert quick.step("pretrain").spec.total_tokens < whole.step("pretrain").spec.total_tokens / 10  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("script", "steps"), [("imdb_ppo.py", ["corpus"]), ("continue_pretraining.py", ["domain", "general"])]
)
def test_the_rules_of_a_script_about_prose_keep_prose(store: Store, script: str, steps: list[str]) -> None:
    """Those of a corpus are made for programs, and know prose by its long lines."""
    review = "I came for the dancing and stayed for the jokes, some of which even work.<br /><br />" * 9
    for step in steps:
        spec: Any = load_script(ROOT / "pipelines" / script).graph(store).step(step).spec
        assert apply(spec.rules, Document("1_7.txt", review))[1] == ""
        assert apply(CorpusSpec().rules, Document("1_7.txt", review))[1]
