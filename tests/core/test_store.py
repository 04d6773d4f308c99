"""The store and its leases, on the local disk and on a real S3 server."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.core.build import build
from cluster.core.errors import InputError, JobError
from cluster.core.lineage import lineage, render
from cluster.core.storage.gc import collect
from cluster.core.storage.holder import Holder
from cluster.core.storage.lease import Lease
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store, problems
from tests.core.toys import CountSpec, WordsSpec


@pytest.mark.heavy
def test_build_find_resolve_verify(any_store: Store) -> None:
    words = build(WordsSpec(words=("a", "b", "c")), {}, store=any_store, name="toy")
    count = build(CountSpec(factor=2), {"words": words}, store=any_store, name="toy")
    assert (count.location.read_bytes("count.txt"), count.metrics) == (b"6", {"count": 6})
    assert build(WordsSpec(words=("a", "b", "c")), {}, store=any_store, name="other").record == words.record
    assert count.parent("words").record == words.record
    assert any_store.resolve("count/toy").record == count.record
    assert any_store.resolve(count.fingerprint[:6]).record == count.record
    assert [a.record.ref for a in any_store.list()] == [words.record.ref, count.record.ref]
    assert problems(count) == []
    assert sorted(p.name for p in words.local().iterdir()) == ["0.txt", "1.txt", "2.txt", "artifact.json"]
    assert pickle.loads(pickle.dumps(count)).local() == count.local()
    with pytest.raises(InputError, match="toy"):
        any_store.resolve("tooy")
    with pytest.raises(InputError, match="may mean"):
        any_store.resolve("toy")


def test_damage_is_found(any_store: Store) -> None:
    words = build(WordsSpec(), {}, store=any_store, name="toy")
    words.location.write_bytes("0.txt", b"ONE")
    words.location.remove("1.txt")
    words.location.write_bytes("extra.txt", b"")
    assert problems(words) == ["extra.txt: not in the record", "0.txt: digest differs", "1.txt: missing"]
    if not words.location.is_local:
        with pytest.raises(InputError, match="damaged"):
            words.local()


def test_files_are_digested_at_the_same_time(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files that are each read only once the other is open: one after the other would wait for ever."""
    both = threading.Barrier(2, timeout=240)
    opened = Location.open

    def meet(place: Location, name: str, *arguments: Any, **options: Any) -> Any:
        file = opened(place, name, *arguments, **options)
        if "rb" in (arguments or ("rb",)) and name.endswith(".txt"):
            both.wait()
        return file

    monkeypatch.setattr(Location, "open", meet)
    words = build(WordsSpec(words=("a", "bc")), {}, store=any_store, name="toy")
    assert [entry.size_bytes for entry in words.record.files.values()] == [1, 2]
    assert problems(words) == []


def test_aliases_and_lineage(any_store: Store) -> None:
    words = build(WordsSpec(), {}, store=any_store, name="toy")
    count = build(CountSpec(), {"words": words}, store=any_store, name="toy")
    any_store.set_alias("chat@prod", words)
    any_store.set_alias("chat@prod", count)
    assert any_store.resolve("chat@prod").record == count.record
    tree = lineage(count)
    assert tree["parents"]["words"]["fingerprint"] == words.fingerprint
    assert words.record.ref in render(tree)
    any_store.remove_alias("chat@prod")
    assert any_store.aliases() == {}
    with pytest.raises(InputError):
        any_store.set_alias("no/slash", words)


@pytest.mark.heavy
def test_garbage_collection_keeps_what_is_needed(any_store: Store) -> None:
    words = build(WordsSpec(), {}, store=any_store, name="toy")
    count = build(CountSpec(), {"words": words}, store=any_store, name="toy")
    loose = build(WordsSpec(words=("z",)), {}, store=any_store, name="toy")
    any_store.set_alias("kept", count)
    any_store.staging("words", "toy", "f" * 64).write_bytes("half.txt", b"x")
    assert len(collect(any_store, 0, dry_run=True)) == 2
    collect(any_store, 0, dry_run=False)
    assert {a.record.ref for a in any_store.list()} == {words.record.ref, count.record.ref}
    assert any_store.find("words", loose.fingerprint) is None
    assert not any_store.staging("words", "toy", "f" * 64).exists("half.txt")
    assert collect(any_store, 0, dry_run=True) == []


def test_one_lease_at_a_time(any_store: Store) -> None:
    first, second = any_store.lease("words", "a" * 64), any_store.lease("words", "a" * 64)
    assert first.acquire()
    assert not second.acquire()
    first.check()
    first.release()
    assert second.acquire()
    second.release()
    assert second.holder() is None


def _expire(lease: Lease, **changes: str) -> None:
    """As if the holder had not had the time to renew; `changes` say where it is."""
    holder = msgspec.json.decode(lease.place.read_bytes("1.json"), type=Holder)
    expired = msgspec.structs.replace(holder, expires_at=time.time() - 1, **changes)
    lease.place.write_bytes("1.json", msgspec.json.encode(expired))


def test_an_expired_lease_is_taken_over_and_its_holder_told(any_store: Store) -> None:
    stale, heir = any_store.lease("words", "b" * 64), any_store.lease("words", "b" * 64)
    assert stale.acquire()
    _expire(stale, host="another-machine")
    assert heir.acquire()
    with pytest.raises(JobError, match="taken over"):
        stale.check()
    heir.check()
    stale.release()
    heir.release()


def test_a_machine_that_slept_longer_than_its_leases_wakes_up_with_them(any_store: Store) -> None:
    slept, other = any_store.lease("words", "c" * 64), any_store.lease("words", "c" * 64)
    assert slept.acquire()
    _expire(slept)
    assert other.holder() is not None
    assert not other.acquire()
    slept.check()
    slept.release()


def test_a_large_file_is_written_whole_or_not_at_all(any_store: Store, tmp_path: Path) -> None:
    place, source = any_store.staging("words", "toy", "a" * 64), tmp_path / "large"
    source.write_bytes(os.urandom(3 << 20))
    place.write_file("deep/large", source)
    assert place.read_bytes("deep/large") == source.read_bytes()
    with pytest.raises(FileNotFoundError):
        place.write_file("other", tmp_path / "missing")
    assert sorted(place.walk()) == ["deep/large"]


@pytest.mark.heavy
def test_a_file_replaced_while_it_is_read_is_read_whole(any_store: Store) -> None:
    """A lease is renewed while others look at it: on S3 a reader that opens first and reads then met a newer file."""
    place, texts, read = any_store.root / "seen", (b"a" * 100, b"b" * 200), set()
    place.write_bytes("file", texts[0])

    def replace() -> None:
        for turn in range(60):
            place.write_bytes("file", texts[turn % 2])

    writer = threading.Thread(target=replace)
    writer.start()
    while writer.is_alive():
        read.add(place.read_bytes("file"))
    assert read <= set(texts)


def _hold(place: Location, ready: Event) -> None:
    assert Lease(place).acquire()
    ready.set()
    multiprocessing.Event().wait()


def test_a_killed_holder_is_noticed_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    place, ready = Location(tmp_path / "lease"), context.Event()
    process = context.Process(target=_hold, args=(place, ready))
    process.start()
    assert ready.wait(60)
    assert not Lease(place).acquire()
    process.kill()
    process.join()
    heir = Lease(place)
    assert heir.acquire()
    heir.release()


def _race(place: Location, start: Event, end: Event, wins: multiprocessing.Queue) -> None:
    lease = Lease(place)
    start.wait()
    wins.put(lease.acquire())
    end.wait()  # the winner holds it while the others try


@pytest.mark.heavy
def test_of_many_at_once_one_wins(any_store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    start, end, wins = context.Event(), context.Event(), context.Queue()
    place = any_store.root / "lease"
    racers = [context.Process(target=_race, args=(place, start, end, wins)) for _ in range(4)]
    for racer in racers:
        racer.start()
    start.set()
    assert sorted(wins.get(timeout=240) for _ in racers) == [False, False, False, True]
    end.set()
    for racer in racers:
        racer.join()


def test_whole_files_only(tmp_path: Path) -> None:
    place = Location(tmp_path)
    assert place.create("a", b"1") and not place.create("a", b"2")
    place.write_bytes("a", b"3")
    assert place.read_bytes("a") == b"3"
    assert sorted(os.listdir(tmp_path)) == ["a"]
    with pytest.raises(InputError, match="no such file"):
        place.open("missing")
