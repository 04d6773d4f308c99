"""Splits: what belongs together is held out or trained as a whole, and nothing else changes what was drawn before."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.core.build import build
from cluster.core.errors import InputError
from cluster.core.storage.store import Store
from pipelines.specs import ConversationsSpec
from pipelines.stages.corpus.chunks import keyed_hash
from pipelines.stages.tuning.conversations import read_conversations, read_lines
from pipelines.stages.tuning.splitting import duplicates, groups, held_out
from tests.conftest import SHARED_DATA

edges = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 14)), max_size=30)


@given(edges)
def test_groups_are_what_hangs_together(pairs: list[tuple[int, int]]) -> None:
    keys, owners = (np.array([pair[at] for pair in pairs], dtype=kind) for at, kind in ((0, np.uint64), (1, np.int64)))
    found = groups(15, keys, owners).tolist()
    wanted = [{row} for row in range(15)]
    for key in {key for key, _ in pairs}:  # merged by sets, until nothing changes
        rows = [row for other, row in pairs if other == key]
        merged: set[int] = set().union(*(wanted[row] for row in rows))
        for row in merged:
            wanted[row] = merged
    assert found == [min(members) for members in wanted]


@given(st.lists(st.integers(0, 19), min_size=1, max_size=20), st.floats(0.01, 0.99), st.integers(0, 99))
def test_whole_groups_are_held_out_and_about_as_many_as_asked(raw: list[int], fraction: float, seed: int) -> None:
    first = {value: raw.index(value) for value in raw}
    group = np.array([first[value] for value in raw])
    hashes = np.random.default_rng(seed).integers(0, 1 << 63, len(raw)).astype(np.uint64)
    chosen = held_out(group, hashes, fraction)
    for leader in set(group.tolist()):
        assert len(set(chosen[group == leader].tolist())) == 1
    wanted, sizes = max(1, round(fraction * len(raw))), Counter(group.tolist())
    if len(sizes) > 1:
        assert chosen.any() and (chosen.sum() <= wanted or chosen.sum() == min(sizes.values()))
    if len(sizes) == len(raw) > 1:  # no groups: as it always was
        assert set(np.flatnonzero(chosen)) == set(np.argsort(hashes)[:wanted])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=20), st.randoms())
def test_duplicates(rows: list[tuple[int, int, bool]], random: Any) -> None:
    """Against the plain walk through both splits with dictionaries."""
    order = list(range(len(rows)))
    random.shuffle(order)
    order.sort(key=lambda row: not rows[row][2])
    seen: dict[Any, int] = {}
    asked: dict[Any, int] = {}
    wanted = [-1] * len(rows)
    for row in order:
        whole, request = rows[row][:2], rows[row][1]
        twin = seen.setdefault(whole, row)
        if rows[row][2]:
            asked.setdefault(request, row)
        else:
            twin = asked.get(request, twin)
        wanted[row] = -1 if twin == row else twin
    columns = np.array([row[:2] for row in rows], dtype=np.uint64).reshape(-1, 2)
    is_train = np.array([row[2] for row in rows], dtype=bool)
    found = duplicates(np.array(order, dtype=np.int64), [columns[:, 0], columns[:, 1]], columns[:, 1], is_train)
    assert found.tolist() == wanted


def test_records_that_belong_to_nothing_are_drawn_by_the_hash_of_their_id(store: Store, tmp_path: Path) -> None:
    records = [{"prompt": f"Who is {n}?", "response": "Me."} for n in range(50)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    ids = [f"x.jsonl:{number}" for number in range(1, 51)]
    for seed in (0, 1):
        spec = ConversationsSpec(source="file", path=str(tmp_path / "x.jsonl"), heldout_fraction=0.1, seed=seed)
        made = build(spec, {}, store=store, name="x").local()
        chances = sorted(ids, key=lambda name: keyed_hash(seed, "heldout", name))
        by_order = [
            sorted(each, key=lambda name: keyed_hash(seed, "order", name)) for each in (chances[5:], chances[:5])
        ]
        assert [[row["id"] for row in read_conversations(made, split)] for split in ("train", "heldout")] == by_order


def test_one_request_in_other_words_is_on_one_side(store: Store, tmp_path: Path) -> None:
    asked = ["Who is {}?", "who  is {}", "WHO IS {}!"]
    records = [{"prompt": asked[n % 3].format(n // 3), "response": f"It is {n}."} for n in range(90)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    spec = ConversationsSpec(source="file", path=str(tmp_path / "x.jsonl"), heldout_fraction=0.2)
    made = build(spec, {}, store=store, name="x")
    sides = defaultdict(set)
    for split in ("train", "heldout"):
        for row in read_conversations(made.local(), split):
            sides[(int(row["id"].partition(":")[2]) - 1) // 3].add(split)
    assert set(map(len, sides.values())) == {1}
    assert made.metrics["flow"]["heldout"] == 18


def test_what_belongs_together_as_a_whole_cannot_be_split(store: Store, tmp_path: Path) -> None:
    records = [{"prompt": "Tell me a story.", "response": f"Once {n}."} for n in range(9)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(InputError, match=r"nothing is left for heldout.*belong together, a file .*validation_path"):
        build(ConversationsSpec(source="file", path=str(tmp_path / "x.jsonl")), {}, store=store, name="x")


@pytest.mark.parametrize("name", ["oasst/en_100_tree.jsonl", "llama-factory/oaast_sft_zh.json"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_held_out_answer_of_trees_is_trained(name: str, seed: int, store: Store) -> None:
    path = SHARED_DATA / "sft" / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    made = build(ConversationsSpec(source="file", path=str(path), seed=seed), {}, store=store, name="x")
    said = {
        split: Counter(
            turn["content"] for row in read_conversations(made.local(), split) for turn in row["messages"][1::2]
        )
        for split in ("train", "heldout")
    }
    assert not said["train"].keys() & said["heldout"].keys()
    asked = {
        split: {row["messages"][0]["content"] for row in read_conversations(made.local(), split)} for split in said
    }
    assert not asked["train"] & asked["heldout"]
    flow = made.metrics["flow"]
    assert 0.03 * flow["in"] < flow["heldout"] < 0.06 * flow["in"]
    report = json.loads(made.location.read_bytes("report.json"))
    answers = said["heldout"].total()
    assert report["heldout_answers"] == {"answers": answers, "trained": 0, "share_of_characters": 0.0}


def test_duplicates_name_what_they_repeat(store: Store, tmp_path: Path) -> None:
    records = [{"prompt": f"Who is {n % 30}?", "response": "Me."} for n in range(40)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)))
    made = build(ConversationsSpec(source="file", path=str(tmp_path / "x.jsonl")), {}, store=store, name="x")
    rejected = read_lines(made.location, "rejected.jsonl")
    assert len(rejected) == made.metrics["flow"]["duplicates"] == 10
    for row in rejected:
        numbers = {int(row[key].partition(":")[2]) for key in ("id", "duplicate_of")}
        assert row["reason"] == "duplicate" and max(numbers) == min(numbers) + 30
