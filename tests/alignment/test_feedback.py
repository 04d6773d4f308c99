"""From clicks to preferences: what an endpoint's log becomes, and what of it does not count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.core.errors import InputError, SpecError
from cluster.core.lineage import lineage, render
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from cluster.pipeline import build
from pipelines.specs import PreferencesSpec
from pipelines.stages.alignment.preferences import read_preferences
from pipelines.stages.tuning.conversations import read_lines

TINY, OTHER = "sft/tiny-0123456789ab", "sft/other-ba9876543210"
HISTORY = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi."},
]


class Log:
    """Writes a log as the replicas of an endpoint do."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1_800_000_000.0
        folder.mkdir()
        (folder / "receipts.secret").write_bytes(b"x" * 32)

    def say(self, kind: str, replica: int = 0, key: str = "0123456789ab", **said: Any) -> None:
        self.now += 1
        about: dict[str, Any] = {"kind": kind, "model": "chat"}
        if kind != "withdrawal":
            about |= {"consent": True, "sampling": {"temperature": 1.0}}
        line = {"id": f"line{self.now}", "at": self.now, "key": key, "said": about | said}
        with (self.folder / f"replica{replica}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


def asked(text: str) -> dict[str, Any]:
    return {"messages": [*HISTORY, {"role": "user", "content": text}]}


def answer(text: str, id: str = "", artifact: str = TINY) -> dict[str, Any]:
    about = {"endpoint": "chat", "request": "r", "answered_at": 1.0}
    return {"id": id or f"answer-{text}", "artifact": artifact, "text": text, **about}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "said")


def made(log: Log, store: Store, **fields: Any) -> Artifact:
    fields = {"heldout_fraction": 0.3} | fields
    return build(PreferencesSpec(source="feedback", path=str(log.folder), **fields), {}, store=store, name="said")


def rows(preferences: Artifact) -> dict[str, dict[str, Any]]:
    found = [row for split in ("train", "heldout") for row in read_preferences(preferences.local(), split)]
    return {row["prompt"][-1]["content"]: row for row in found}


def reasons(preferences: Artifact) -> list[str]:
    return sorted(row["reason"].partition(":")[0] for row in read_lines(preferences.location, "rejected.jsonl"))


def test_choices_and_edits_are_pairs_and_thumbs_are_answers(log: Log, store: Store) -> None:
    log.say("choice", **asked("a"), chosen=answer("good"), rejected=answer("bad", artifact=OTHER))
    log.say("edit", replica=1, key="ba9876543210", **asked("b"), answer=answer("so so"), edit="better")
    log.say("thumb", **asked("c"), answer=answer("fine"), thumb="up")
    log.say("thumb", **asked("d"), answer=answer("no"), thumb="down")
    found = rows(made(log, store))
    assert (found["a"]["chosen"], found["a"]["rejected"], found["a"]["how"]) == ("good", "bad", "choice")
    assert found["a"]["answered_by"] == [TINY, OTHER]
    assert (found["b"]["chosen"], found["b"]["rejected"], found["b"]["how"]) == ("better", "so so", "edit")
    assert found["b"]["key"] == "ba9876543210" and found["b"]["consent"] is True
    assert (found["c"]["answer"], found["c"]["desirable"]) == ("fine", True)
    assert (found["d"]["answer"], found["d"]["desirable"]) == ("no", False)
    for text, row in found.items():
        assert row["prompt"] == [*HISTORY, {"role": "user", "content": text}]


def test_the_lineage_names_what_answered_and_who_said_it(log: Log, store: Store) -> None:
    for text in "abcdef":
        log.say("choice", **asked(text), chosen=answer(f"good {text}"), rejected=answer(f"bad {text}", artifact=OTHER))
    log.say("edit", key="", **asked("g"), answer=answer("h"), edit="i")
    preferences = made(log, store)
    told = lineage(preferences)["metrics"]
    assert told["answered_by"] == {TINY: 7, OTHER: 6}
    assert told["keys"] == {"0123456789ab": 6, "none": 1} and told["consent"] == 7
    assert told["said_from"] < told["said_to"] == log.now
    assert TINY in render(lineage(preferences)) and told["how"]["train"]["choice"] > 0


def test_what_does_not_count_is_set_aside_with_its_reason(log: Log, store: Store) -> None:
    for text in "abc":
        log.say("choice", **asked(text), chosen=answer(f"good {text}"), rejected=answer(f"bad {text}"))
    log.say("thumb", **asked("d"), answer=answer("d1"), thumb="up")
    log.say("thumb", **asked("d"), answer=answer("d1"), thumb="down")  # said again
    log.say("edit", **asked("e"), answer=answer("e1"), edit="e2")
    log.say("withdrawal", answer=answer("", "answer-e1"))
    log.say("choice", **asked("f"), chosen=answer("f1"), rejected=answer("f2"), consent=False)
    log.say("edit", **asked("g"), answer=answer("same", "g1"), edit="same")
    log.say("thumb", messages=[{"role": "assistant", "content": "?"}], answer=answer("h"), thumb="up")
    with (log.folder / "replica1.jsonl").open("a") as file:
        file.write('{"id": "x", "at": 1, "key": "", "said": {"kind": "like"}}\nnot JSON\n{"id": "being writ')
    preferences = made(log, store, max_bad_fraction=0.5)
    assert set(rows(preferences)) == set("abcd") and rows(preferences)["d"]["desirable"] is False
    found = reasons(preferences)
    assert found.count("not a line of feedback") == 2
    for reason in ("said again", "withdrawn", "withdrawal", "no consent", "chosen and rejected are the same"):
        assert found.count(reason) == 1, found
    assert len(found) == 8
    report = json.loads(preferences.location.read_bytes("report.json"))
    assert report["flow"]["in"] == 12 and report["reasons"]


def test_people_who_disagree_are_counted_and_kept(log: Log, store: Store) -> None:
    for text in "ab":
        log.say("choice", **asked(text), chosen=answer("x", f"1{text}"), rejected=answer("y", f"2{text}"))
        other = {"chosen": answer("y", f"3{text}"), "rejected": answer("x", f"4{text}")}
        log.say("choice", key="other0123456", **asked(text), **other)
    preferences = made(log, store)
    assert preferences.metrics["contradicting"] == 4 and preferences.metrics["flow"]["duplicates"] == 0


def test_what_is_said_later_is_another_artifact(log: Log, store: Store) -> None:
    for text in "ab":
        log.say("choice", **asked(text), chosen=answer(f"x{text}"), rejected=answer("y"))
    first = made(log, store)
    assert made(log, store).fingerprint == first.fingerprint
    log.say("choice", **asked("c"), chosen=answer("x"), rejected=answer("y"))
    assert made(log, store).fingerprint != first.fingerprint


def test_a_log_that_is_none_is_said(log: Log, store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no feedback.*endpoint\.feedback\.path"):
        made(log, store)
    (log.folder / "other.jsonl").write_text('{"prompt": "x", "chosen": "a", "rejected": "b"}\n' * 3)
    with pytest.raises(InputError, match=r"3 of 3 lines are no feedback, the first other\.jsonl:1: .*`id`"):
        made(log, store)
    with pytest.raises(SpecError, match=r"goes with `source: file` or `feedback`"):
        PreferencesSpec(source="feedback").check()
    with pytest.raises(SpecError, match="feedback takes no conversations"):
        PreferencesSpec(source="feedback", path="x").check_inputs({"conversations": None})
