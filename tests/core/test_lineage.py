"""Lineage of lines that are long and of such that part and meet: each ancestor is read and told once."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest

from cluster.core.lineage import ancestry, lineage, render
from cluster.core.storage.artifact import RECORD_FILE, Artifact, Code, Parent, Record
from cluster.core.storage.gc import collect
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from tests.conftest import ROOT

LENGTH = 1200  # beyond Python's limit of recursion
ROUNDS = 16


def _add(store: Store, number: int, **parents: Artifact) -> Artifact:
    record = Record(
        kind="total",
        name=f"n{number}",
        fingerprint=f"{number:064x}"[::-1],
        revision=1,
        spec={"number": number},
        parents={role: Parent(a.kind, a.name, a.fingerprint) for role, a in parents.items()},
        scaling={},
        code=Code("c0ffee", ""),
        versions={"python": "3"},
        started_at=f"2001-01-01T00:{number // 60:02}:{number % 60:02}.000+00:00",
        duration_seconds=0.0,
        metrics={},
        files={},
    )
    place = store.root / record.ref
    place.write_bytes(RECORD_FILE, msgspec.json.encode(record))
    return Artifact(record, place, store)


def _chain(store: Store) -> Artifact:
    last = _add(store, 0)
    for number in range(1, LENGTH):
        last = _add(store, number, before=last)
    return last


def _diamonds(store: Store) -> Artifact:
    top = _add(store, 0)
    for number in range(1, 2 * ROUNDS, 2):
        top = _add(store, number + 1, left=top, middle=top, right=_add(store, number, above=top))
    return top


class Reads:
    """Counts what is read and listed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read, self.listed = 0, 0
        read, names = Location.read_bytes, Location.names

        def count_read(place: Location, name: str) -> bytes:
            self.read += 1
            return read(place, name)

        def count_listed(place: Location, name: str = "") -> list[str]:
            self.listed += 1
            return names(place, name)

        monkeypatch.setattr(Location, "read_bytes", count_read)
        monkeypatch.setattr(Location, "names", count_listed)


def _ctl(store: Store, *arguments: str) -> str:
    command = [sys.executable, "-c", "from cluster.cli.app import run; run()", "artifacts", *arguments]
    command += ["--store", store.root.url]
    return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout


@pytest.mark.heavy
def test_a_long_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    last = _chain(store)
    printed = _ctl(store, "lineage", last.record.ref, "--json")
    assert len(printed) < 1000 * LENGTH
    told = json.loads(printed)
    assert [int(node["spec"]["number"]) for node in (told, *told["ancestors"].values())] == list(range(LENGTH))[::-1]
    text = _ctl(store, "lineage", last.record.ref)
    assert len(text) < 1000 * LENGTH and "before: total/n0-" in text
    reads = Reads(monkeypatch)
    assert len(ancestry([last])) == LENGTH
    assert (reads.read, reads.listed) == (LENGTH - 1, 0)
    store.set_alias("kept", last)
    assert collect(store, 0, dry_run=False) == []


def test_lines_that_part_and_meet(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    last = _diamonds(store)
    reads = Reads(monkeypatch)
    found = ancestry([last])
    places = {artifact.record.ref: place for place, artifact in enumerate(found)}
    assert len(places) == len(found) == 2 * ROUNDS + 1
    for artifact in found:
        assert all(places[parent.ref] < places[artifact.record.ref] for parent in artifact.record.parents.values())
    assert (reads.read, reads.listed) == (2 * ROUNDS, 0)
    told = lineage(last)
    assert len(json.dumps(told)) < 1000 * len(found)
    assert told["parents"]["left"]["ref"] == told["parents"]["middle"]["ref"]
    assert set(told["ancestors"]) | {told["ref"]} == set(places)
    assert render(told).count("code     c0ffee") == len(found)


def test_an_ancestor_under_another_name_is_found(store: Store) -> None:
    """As `--name` leaves it: what was built as one thing is known as another to what is built from it."""
    first = _add(store, 0)
    renamed = Artifact(msgspec.structs.replace(first.record, name="other"), first.location, first.store)
    assert _add(store, 1, only=renamed).parent("only").record == first.record
