"""The preferences stage: the worse answer is always another one, and every pair is accounted for."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.core.errors import InputError, SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import ConversationsSpec, PreferencesSpec
from pipelines.stages.alignment.corruption import KINDS, corrupt
from pipelines.stages.alignment.preferences import read_preferences
from pipelines.stages.tuning.conversations import read_conversations, read_lines
from tests.conftest import SHARED_DATA

CODE = """    total = {}
    for name, value in sorted(items.items()):
        if value > limit:
            total[name] = "x" + str(value)
    return total"""

said = st.text(min_size=1, max_size=60).filter(str.strip) | st.sampled_from([CODE, "x", "a\na", "Yes, I do.", "()"])
seeds = st.integers(0, 2**32)


@given(text=said, seed=seeds)
@example(text=")", seed=2)  # its one bracket lost, nothing would be left
def test_damage_always_shows_and_repeats(text: str, seed: int) -> None:
    damaged, how = corrupt(text, random.Random(seed))
    assert damaged != text
    assert damaged.strip()
    assert how in KINDS
    assert corrupt(text, random.Random(seed)) == (damaged, how)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds)
def test_each_kind_damages_code(kind: str, seed: int) -> None:
    damaged = KINDS[kind](CODE, random.Random(seed))
    assert damaged != CODE
    before, after = CODE.split("\n"), damaged.split("\n")
    if kind == "drop_closing":
        assert len(damaged) == len(CODE) - 1
        assert sum(map(damaged.count, ")]}\"'")) == sum(map(CODE.count, ")]}\"'")) - 1
    elif kind == "lose_line":
        assert len(after) == len(before) - 1
        assert (after[0], after[-1]) == (before[0], before[-1])
    elif kind == "shuffle_lines":
        assert sorted(after) == sorted(before)
    elif kind == "swap_names":
        assert [line.count(" ") for line in after] == [line.count(" ") for line in before]
    elif kind == "break_indentation":
        assert [line.strip() for line in after] == [line.strip() for line in before]
        assert sum(a != b for a, b in zip(after, before, strict=True)) == 1
    elif kind == "repeat_words":
        assert len(damaged) > len(CODE)
        assert set(damaged.split()) == set(CODE.split())
    elif kind == "truncate":
        assert CODE.startswith(damaged)
        assert damaged.strip()


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_blank_text_cannot_be_damaged(text: str) -> None:
    with pytest.raises(ValueError, match="blank"):
        corrupt(text, random.Random(0))


@pytest.fixture
def conversations(store: Store, tmp_path: Path) -> Artifact:
    """Two hundred of one turn, and a hundred of two with a system message."""
    records = []
    for number in range(300):
        ask = [{"role": "user", "content": f"Count to {number}."}]
        if number >= 200:
            ask = [
                {"role": "system", "content": "Be exact."},
                {"role": "user", "content": f"How far from {number}?"},
                {"role": "assistant", "content": "To where?"},
                *ask,
            ]
        counted = "\n".join(f"    count({n}, total[{number}])" for n in range(1 + number % 40))
        records.append({"messages": [*ask, {"role": "assistant", "content": counted}]})
    path = tmp_path / "conversations.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    spec = ConversationsSpec(source="file", path=str(path), heldout_fraction=0.2)
    return build(spec, {}, store=store, name="x")


def test_corrupted(conversations: Artifact, store: Store, tmp_path: Path) -> None:
    made = build(PreferencesSpec(foreign_fraction=0.4), {"conversations": conversations}, store=store, name="x")
    flow, how = made.metrics["flow"], made.metrics["how"]
    assert flow == {"in": 300, "train": 240, "heldout": 60, "rejected": 0, "duplicates": 0}
    for split in ("train", "heldout"):
        rows = read_preferences(made.local(), split)
        originals = read_conversations(conversations.local(), split)
        answers = {row["messages"][-1]["content"] for row in originals}
        assert len(rows) == flow[split] == sum(how[split].values())
        for row, original in zip(rows, originals, strict=True):
            assert row["id"] == original["id"]
            assert [*row["prompt"], {"role": "assistant", "content": row["chosen"]}] == original["messages"]
            assert row["rejected"] != row["chosen"]
            if row["how"] == "foreign":
                assert row["rejected"] in answers
                assert abs(row["rejected"].count("\n") - row["chosen"].count("\n")) <= 16
    assert set(how["train"]) == {"foreign", *KINDS}
    assert how["train"]["foreign"] == pytest.approx(0.4 * 240, abs=30)

    inputs = {"conversations": conversations}
    again = build(PreferencesSpec(foreign_fraction=0.4), inputs, store=Store(tmp_path / "other"), name="x")
    assert again.record.files == made.record.files
    other = build(PreferencesSpec(foreign_fraction=0.4, seed=1), inputs, store=store, name="x")
    assert other.record.files["train.jsonl"] != made.record.files["train.jsonl"]

    none = build(PreferencesSpec(foreign_fraction=0), inputs, store=store, name="x")
    assert "foreign" not in none.metrics["how"]["train"]
    every = build(PreferencesSpec(foreign_fraction=1), inputs, store=store, name="x")
    assert every.metrics["how"] == {"train": {"foreign": 240}, "heldout": {"foreign": 60}}


def test_answers_to_damage_must_come_from_somewhere(store: Store) -> None:
    with pytest.raises(SpecError, match="conversations"):
        build(PreferencesSpec(), {}, store=store, name="x")


ASK = {"role": "user", "content": "Who?"}
ME, YOU = {"role": "assistant", "content": "Me."}, {"role": "assistant", "content": "You."}
DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Who?\n\nAssistant:"

GOOD: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "texts": ({"prompt": "Who?", "chosen": "Me.", "rejected": "You."}, [ASK]),
    "messages": ({"prompt": [ASK], "chosen": ME, "rejected": [YOU]}, [ASK]),
    "lists with the prompt in them": ({"prompt": "Who?", "chosen": [ASK, ME], "rejected": [ASK, YOU]}, [ASK]),
    "lists without a prompt": ({"chosen": [ASK, ME], "rejected": [ASK, YOU]}, [ASK]),
    "ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "Who?"}],
            "chosen": {"from": "gpt", "value": "Me."},
            "rejected": {"from": "gpt", "value": "You."},
        },
        [ASK],
    ),
    "HH-RLHF": (
        {"chosen": f"{DIALOGUE} Me.", "rejected": f"{DIALOGUE} You."},
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, ASK],
    ),
}


@pytest.mark.parametrize("layout", GOOD)
def test_files(layout: str, store: Store, tmp_path: Path) -> None:
    record, prompt = GOOD[layout]
    records = [json.loads(json.dumps(record).replace("Who", f"Who is {number}")) for number in range(20)]
    path = tmp_path / "pairs.json.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, [*records, records[3]])).encode()))
    made = build(PreferencesSpec(source="file", path=str(path), heldout_fraction=0.2), {}, store=store, name="x")
    assert made.metrics["flow"]["in"] == 21
    assert made.metrics["flow"]["duplicates"] == 1
    rows = [row for split in ("train", "heldout") for row in read_preferences(made.local(), split)]
    wanted = json.loads(json.dumps(prompt).replace("Who", "Who is 7"))
    [row] = [row for row in rows if row["prompt"] == wanted]
    assert (row["chosen"], row["rejected"], row["how"]) == ("Me.", "You.", "file")


BAD = [
    ({"prompt": "Who?", "chosen": "Me."}, "missing: rejected"),
    ({"prompt": "Who?", "chosen": "Me.", "rejected": "Me."}, "the same"),
    ({"prompt": "Who?", "chosen": "Me.", "rejected": " "}, "nothing said"),
    ({"prompt": [ASK, ME], "chosen": "Me.", "rejected": "You."}, "turn 3 is of the assistant"),
    ({"prompt": "Why?", "chosen": [ASK, ME], "rejected": [ASK, YOU]}, "does not answer the prompt"),
    ({"chosen": [ASK, ME], "rejected": [ME, ASK, YOU]}, "turn 1 is of the assistant"),
    ({"chosen": [ASK, ME], "rejected": [ASK, ME, ASK, YOU]}, "the same prompt"),
    ({"chosen": "Me.", "rejected": "You."}, "no prompt, and no dialogue"),
    ({"chosen": f"{DIALOGUE} Me.", "rejected": DIALOGUE}, "nothing said"),
    ({"prompt": 7, "chosen": "Me.", "rejected": "You."}, "prompt is int"),
]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_a_bad_pair_is_named(record: dict[str, Any], reason: str, store: Store, tmp_path: Path) -> None:
    good = [{"prompt": f"Who is {number}?", "chosen": "Me.", "rejected": "You."} for number in range(30)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, [*good, record])))
    made = build(PreferencesSpec(source="file", path=str(path)), {}, store=store, name="x")
    [rejected] = read_lines(made.location, "rejected.jsonl")
    assert (rejected["id"], rejected["line"]) == ("pairs.jsonl:31", 31)
    assert reason in rejected["reason"]
    with pytest.raises(InputError, match=r"1 of 31 .* the first in line 31: .*preferences\.max_bad_fraction"):
        build(PreferencesSpec(source="file", path=str(path), max_bad_fraction=0), {}, store=store, name="x")


FILES = [
    ("hh-rlhf/harmless-base/test.jsonl.gz", {"in": 1500, "rejected": 8, "duplicates": 0}),
    ("llama-factory/dpo_en_demo.json", {"in": 300, "rejected": 0, "duplicates": 5}),
    ("medicalgpt/dpo_zh_500.jsonl", {"in": 500, "rejected": 0, "duplicates": 0}),
]


@pytest.mark.parametrize(("name", "expected"), FILES)
def test_files_of_the_world(name: str, expected: dict[str, int], store: Store) -> None:
    path = SHARED_DATA / "preference" / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    made = build(PreferencesSpec(source="file", path=str(path)), {}, store=store, name="x")
    assert {key: made.metrics["flow"][key] for key in expected} == expected
