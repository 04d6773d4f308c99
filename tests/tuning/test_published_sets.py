"""The table of published sets in docs/tuning.md is right: the stage says so, and so does a count of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cluster.core.build import build
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec
from tests.conftest import ROOT, SHARED_DATA

ROW = re.compile(
    r"^\| [^|]+ \| `([\w./-]+)` \| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", re.MULTILINE
)
TABLE = {found[0]: found[1:] for found in ROW.findall((ROOT / "docs" / "tuning.md").read_text())}
FOLDER = SHARED_DATA / "sft"
CALLS = re.compile(r"(\w+\(\)[, \n]*)+(None)?")  # what is left of calls without their texts


def test_every_set_is_in_the_table() -> None:
    if not FOLDER.is_dir():
        pytest.skip("the collection of data is not on this machine")
    assert {name.partition("/")[0] for name in TABLE} == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("name", TABLE)
def test_a_set_is_read_by_its_name_alone(name: str, store: Store) -> None:
    path, (formats, *numbers) = FOLDER / name, TABLE[name]
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    records, read, quarantined, twice = (int(number.replace(",", "")) for number in numbers)
    made = build(ConversationsSpec(source="file", path=str(path), heldout_fraction=0.3), {}, store=store, name="x")
    report, flow = json.loads(made.location.read_bytes("report.json")), made.metrics["flow"]
    assert formats == ", ".join(f"`{each}`" for each in report["formats"])
    assert (report["records"], flow["in"] - flow["rejected"]) == (records, read)
    assert (flow["rejected"], flow["duplicates"]) == (quarantined, twice)
    assert recounted(path) == (records, read, quarantined, twice)


def recounted(path: Path) -> tuple[int, int, int, int]:
    """Records, conversations, records without an answer, and conversations that are there twice: in plain Python."""
    files = [path] if path.is_file() else sorted(path.rglob("*.json"))
    texts = [file.read_text("utf-8") for file in files]
    found = [json.loads(text) if text[0] == "[" or path.is_dir() else lines(text) for text in texts]
    records = found if path.is_dir() else found[0]
    trees = (answers(each["prompt"]) if "message_tree_id" in each else [each] for each in records)
    conversations = [each for tree in trees for each in tree]
    good = [each for each in conversations if is_answered(each)]
    whole = {json.dumps({key: each[key] for key in sorted(each) if key not in NAMES}) for each in good}
    return len(records), len(good), len(conversations) - len(good), len(good) - len(whole)


NAMES = ("id", "conversation_id", "category", "name", "is_classification", "class", "cate1", "cate2")


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def answers(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The last answers below a message of a tree."""
    below = [answer for reply in node["replies"] for answer in answers(reply)]
    return below or ([{"message_id": node["message_id"]}] if node["role"] == "assistant" else [])


def is_answered(record: dict[str, Any]) -> bool:
    for turn in record.get("chat", {}).values():
        command = turn["Commands"].removeprefix("<|Commands|>: ").removesuffix("<eoc>\n").strip()
        if command not in ("None", "None.") and not CALLS.fullmatch(re.sub('"[^"]*"', "", command)):
            return False
    return all(record.get(name, "x").strip() for name in ("output", "std_answer", "summary"))
