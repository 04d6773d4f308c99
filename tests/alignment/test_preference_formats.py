"""Preferences as the world publishes them: each record is read by its name and by what is in it, alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import InputError, SpecError
from cluster.core.specs import spec as specs
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import PreferencesSpec, RewardSpec
from pipelines.stages.alignment import formats
from pipelines.stages.alignment.preferences import read_preferences, read_rankings
from pipelines.stages.tuning.conversation import BadRecord
from pipelines.stages.tuning.conversations import read_lines
from tests.conftest import SHARED_DATA

ASK = {"role": "user", "content": "Who?"}
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, ASK]
PAIR = {"prompt": [ASK], "chosen": "Me.", "rejected": "You."}


def node(role: str, text: str, *replies: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "text": text, "replies": list(replies), **more}


READ: dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]] = {
    "a system prompt and earlier turns beside": (
        "dpo",
        {"system": "Be brief.", "history": [["Hi", "Yes?"]], "question": "Who?"}
        | {"response_chosen": "Me.", "response_rejected": "You."},
        [PAIR | {"prompt": [SYSTEM, *TALK]}],
    ),
    "ShareGPT with a system prompt": (
        "medicalgpt",
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Who?"}]}
        | {"chosen": "Me.", "rejected": "You."},
        [PAIR | {"prompt": [SYSTEM, ASK]}],
    ),
    "UltraFeedback, binarized": (
        "dpo",
        {"prompt": "Who?", "chosen": [ASK, {"role": "assistant", "content": "Me."}], "rejected": "You."}
        | {"score_chosen": 8.5, "score_rejected": "6"},
        [PAIR | {"margin": 2.5}],
    ),
    "scores that are equal": (
        "dpo",
        {"prompt": "Who?", "chosen": "Me.", "rejected": "You.", "chosen_score": 3, "rejected_score": 3},
        [PAIR | {"tie": True}],
    ),
    "a margin": (
        "dpo",
        {"instruction": "Who?", "chosen": "Me.", "rejected": "You.", "margin": 0},
        [PAIR | {"margin": 0.0}],
    ),
    "MOSS-RLHF": (
        "moss-rlhf",
        {"chosen": ["Hi", "Yes?", "Who?", "Me."], "rejected": ["Hi", "Yes?", "Who?", "You."]}
        | {"mean preference difference": 0.7, "GPT4 label": 1},
        [PAIR | {"prompt": TALK, "margin": 0.7}],
    ),
    "HH-RLHF without its first blank lines": (
        "hh-rlhf",
        {"chosen": "Human: Who?\n\nAssistant: Me.", "rejected": "Human: Who?\n\nAssistant: You."},
        [PAIR],
    ),
    "a dialogue in a prompt": (
        "dpo",
        {"prompt": "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Who?\n\nAssistant:"}
        | {"chosen": " Me.", "rejected": " You."},
        [PAIR | {"prompt": TALK}],
    ),
    "a dialogue in a prompt, line by line, that nobody won": (
        "dpo",
        {"prompt": "User: Hi\nAssistant: Yes?\nUser: Who?", "chosen": "Me.", "rejected": "You.", "is_tie": True},
        [PAIR | {"prompt": TALK, "tie": True}],
    ),
    "a prompt that speaks of an assistant": (
        "dpo",
        {"prompt": "Human: error", "chosen": "Me.", "rejected": "You."},
        [PAIR | {"prompt": [{"role": "user", "content": "Human: error"}]}],
    ),
    "OASST, the best first": (
        "ranked",
        {"instruction": "Who?", "input": "", "output": ["Me.", "You.", "They."], "history": [["Hi", "Yes?"]]},
        [{"prompt": TALK, "ranked": ["Me.", "You.", "They."]}],
    ),
    "two answers of which the best is first": ("ranked", {"instruction": "Who?", "output": ["Me.", "You."]}, [PAIR]),
    "UltraFeedback, by the finer score": (
        "ultrafeedback",
        {"instruction": "Who?"}
        | {
            "completions": [
                {"response": text, "overall_score": overall, "fine-grained_score": fine}
                for text, overall, fine in (("You.", 10, 2.0), ("Me.", 8, 4.5), ("They.", 1, 1.0))
            ]
        },
        [{"prompt": [ASK], "ranked": ["Me.", "You.", "They."]}],
    ),
    "feedback with ranks, two of them alike": (
        "ranked",
        {"prompt": "Who?", "answers": ["You.", "Me.", "They.", " ", "Me."], "ranks": [2, 1, 2, 3, 4]},
        [PAIR, PAIR | {"rejected": "They."}, {"prompt": [ASK], "chosen": "You.", "rejected": "They.", "tie": True}],
    ),
    "two answers with ratings": (
        "ranked", {"prompt": "Who?", "responses": ["You.", "Me."], "ratings": [1, 4]}, [PAIR | {"margin": 3.0}],
    ),
    "AlpacaEval": (
        "alpaca-eval",
        {"instruction": "Who?", "output_1": "You.", "output_2": "Me.", "generator_1": "a", "preference": 1.98},
        [PAIR],
    ),
    "AlpacaEval, a tie": (
        "alpaca-eval",
        {"instruction": "Who?", "output_1": "Me.", "output_2": "You.", "preference": 1.5},
        [PAIR | {"tie": True}],
    ),
    "KTO": (
        "kto",
        {"prompt": "Who?", "completion": "Me.", "label": True},
        [{"prompt": [ASK], "answer": "Me.", "desirable": True}],
    ),
    "KTO, whole dialogues": (
        "kto",
        {"messages": [*TALK, {"role": "assistant", "content": "You."}], "label": False},
        [{"prompt": TALK, "answer": "You.", "desirable": False}],
    ),
    "OASST's trees": (
        "oasst",
        {
            "message_tree_id": "t",
            "prompt": node(
                "prompter",
                "Hi",
                node("assistant", "Go.", rank=1),
                node(
                    "assistant",
                    "Yes?",
                    node(
                        "prompter",
                        "Who?",
                        node("assistant", "You.", rank=1),
                        node("assistant", "Me.", rank=0),
                        node("assistant", "Nobody.", rank=2, deleted=True),
                        node("assistant", "They."),
                    ),
                    rank=0,
                ),
            ),
        },
        [{"prompt": TALK[:1], "chosen": "Yes?", "rejected": "Go."}, PAIR | {"prompt": TALK}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_records_by_name_and_by_what_is_in_them(case: str) -> None:
    name, record, rows = READ[case]
    for each in (name, formats.AUTO):
        assert formats.read(each, json.loads(json.dumps(record))).rows == rows


TWO = {"prompt": "Who?", "chosen": "Me.", "rejected": "You."}
REFUSED = [
    (TWO | {"score_chosen": 1, "score_rejected": 2}, "contradicts its scores: by 1 the rejected answer is better"),
    (TWO | {"margin": "much"}, "score: margin is 'much', where a number belongs"),
    (TWO | {"margin": float("inf")}, "score: margin is inf"),
    ({"prompt": "Who?", "answers": ["Me.", "You."], "scores": [1]}, "scores has not as many entries as answers"),
    ({"prompt": "Who?", "answers": ["Me.", "Me."], "scores": [1, 2]}, "nothing to compare"),
    ({"instruction": "Who?", "output_1": "Me.", "output_2": "You.", "preference": None}, "not judged"),
    ({"instruction": "Who?", "output_1": "Me.", "output_2": "You.", "preference": 3}, "preference is 3"),
    ({"prompt": "Who?", "completion": "Me.", "label": "good"}, "label: label is 'good', where true or false belongs"),
    ({"prompt": "Who?"}, "no known format of preferences: the fields are 'prompt'"),
    (TWO | {"history": "Hi"}, "history: not a list of pairs"),
    (TWO | {"tools": [{"name": "look"}]}, "unknown meaning: tools is nothing that is learned here"),
]


@pytest.mark.parametrize(("record", "words"), REFUSED)
def test_what_cannot_be_is_refused_in_words(record: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRecord, match=words):
        formats.read(formats.AUTO, record)


def test_preferences_of_a_folder_a_glob_and_an_address(store: Store, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    for number in range(4):
        row = {"prompt": f"Question {number}?", "chosen": "Me.", "rejected": "You."}
        (tmp_path / "pairs" / f"{number}.jsonl").write_text(json.dumps(row) + "\n{}\n" * (number == 2))
    for path in (tmp_path / "pairs", tmp_path / "pairs" / "*.jsonl", f"local://{tmp_path}/pairs"):
        spec = PreferencesSpec(source="file", path=str(path), heldout_fraction=0.5, max_bad_fraction=0.5)
        made = build(spec, {}, store=store, name="x")
        rows = [row for split in ("train", "heldout") for row in read_preferences(made.local(), split)]
        assert len({row["id"] for row in rows}) == 4
        [refused] = read_lines(made.location, "rejected.jsonl")
        assert refused["line"] == 2 and refused["reason"].endswith("(2.jsonl)")
    spec = PreferencesSpec(source="file", path="memory://nowhere/x.jsonl")
    with pytest.raises(InputError, match=r"preferences\.path: path 'memory://nowhere/x.jsonl' is not a folder or file"):
        build(spec, {}, store=store, name="x")


def test_lists_become_their_pairs_and_contradictions_are_counted(store: Store, tmp_path: Path) -> None:
    records = [{"instruction": f"Who is {n}?", "output": ["Me.", "You.", "They."], "stars": n} for n in range(20)]
    records += [
        {"prompt": "Who is 3?", "chosen": "They.", "rejected": "Me."},
        {"prompt": "Who is 99?", "output": ["Me."]},
    ]
    path = tmp_path / "feedback.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    spec = PreferencesSpec(source="file", path=str(path), heldout_fraction=0.2, max_bad_fraction=0.0)
    made = build(spec, {}, store=store, name="x")
    told = made.metrics
    assert (told["flow"]["in"], told["flow"]["rejected"]) == (22, 1)
    assert told["formats"] == {"ranked": 20, "pairs": 1}
    assert (told["contradicting"], told["left_out"]) == (2, {"stars": 20})
    [aside] = [row for row in read_lines(made.location, "rejected.jsonl") if row["reason"] != "duplicate"]
    assert (aside["id"], aside["reason"].partition(":")[0]) == ("feedback.jsonl:22", "nothing to compare")
    whole = [row for split in ("train", "heldout") for row in read_rankings(made.local(), split)]
    assert len(whole) == told["flow"]["train"] + told["flow"]["heldout"]
    single = [row for split in ("train", "heldout") for row in read_preferences(made.local(), split)]
    found = [(row["chosen"], row["rejected"]) for row in single if row["prompt"][0]["content"] == "Who is 7?"]
    assert found == [("Me.", "You."), ("Me.", "They."), ("You.", "They.")]


def test_fields_that_came_later_leave_fingerprints_alone() -> None:
    """As they were before there was a format, a margin and a centre."""
    pairs = "d79ece3e4a5f6e91aa6dbf481d953fc1d462734d34e2a718887067e227c97847"
    reward = "622b85c95edc1436ca5451a05dd43a83a1aa63d087713668dfb7da0a318ec218"
    assert specs.fingerprint(PreferencesSpec(), {}) == pairs
    assert specs.fingerprint(RewardSpec(), {}) == reward
    assert specs.fingerprint(RewardSpec(center_coef=0.01), {}) != reward
    with pytest.raises(SpecError, match=r"preferences\.format: no format 'hhrlhf'.*hh-rlhf"):
        PreferencesSpec(format="hhrlhf").check()


FILES = [
    ("preference/llama-factory/oaast_rm_zh.json", {"in": 775, "rejected": 3, "duplicates": 0}, 339),
    ("preference/llama-factory/dpo_zh_demo.json", {"in": 300, "rejected": 0, "duplicates": 11}, 0),
    ("sft/oasst/en_100_tree.jsonl", {"in": 212, "rejected": 0, "duplicates": 0}, 155),
]


@pytest.mark.parametrize(("name", "expected", "lists"), FILES)
def test_rankings_of_the_world(name: str, expected: dict[str, int], lists: int, store: Store) -> None:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    made = build(PreferencesSpec(source="file", path=str(path)), {}, store=store, name="x")
    assert {key: made.metrics["flow"][key] for key in expected} == expected
    rows = [row for split in ("train", "heldout") for row in read_rankings(made.local(), split)]
    assert sum("ranked" in row for row in rows) == lists
