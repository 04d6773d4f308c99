"""Garbage collection: what it keeps of work that goes on or can be gone on with, and what a kill of it leaves."""

from __future__ import annotations

import datetime
import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.control.screen.console import guarded
from cluster.control.screen.view import View
from cluster.core.build import build
from cluster.core.storage.artifact import RECORD_FILE, Artifact
from cluster.core.storage.draft import Draft
from cluster.core.storage.gc import collect, resumable
from cluster.core.storage.holder import Holder
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store, problems
from cluster.pipeline import pipeline, run
from tests.conftest import ROOT
from tests.core.toys import CountSpec, TotalSpec, WordsSpec

pytestmark = pytest.mark.heavy

OLD = "2001-01-01T00:00:00.000+00:00"
LONG_DAYS = 3650.0


def _age(*artifacts: Artifact) -> None:
    """As if they had been built long ago."""
    for artifact in artifacts:
        record = msgspec.structs.replace(artifact.record, started_at=OLD)
        artifact.location.write_bytes(RECORD_FILE, msgspec.json.encode(record))


def _gc(store: Store, days: float = 0) -> None:
    """`ctl artifacts gc --yes` of another process."""
    command = [sys.executable, "-c", "from cluster.cli.app import run; run()", "artifacts", "gc", "--yes"]
    subprocess.run(
        [*command, "--older-than-days", str(days), "--store", store.root.url], check=True, cwd=ROOT, capture_output=True
    )


def _refs(store: Store) -> set[str]:
    return {artifact.record.ref for artifact in store.list()}


# -- in use --------------------------------------------------------------------------------------------------------


@pipeline
def sums(step):  # type: ignore[no-untyped-def]
    words = step(WordsSpec(words=("a", "b")))
    late = step(CountSpec(factor=3), name="late", words=words)
    new = step(CountSpec(factor=5), name="new", words=step(WordsSpec(words=("c",)), name="others"))
    first = step(TotalSpec(), name="first", count=new)
    return step(TotalSpec(), name="last", first=first, late=late)


class Collecting(View):
    """Collects everything that may go before and after each step, before the last one in another process."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def started(self, key: str) -> None:
        if key == "last":
            _gc(self.store)
        collect(self.store, 0, dry_run=False)

    def finished(self, key: str, artifact: Artifact, seconds: float, *, was_there: bool) -> None:
        collect(self.store, 0, dry_run=False)


def test_what_later_steps_of_a_running_pipeline_use_is_kept(any_store: Store) -> None:
    words = build(WordsSpec(words=("a", "b")), {}, store=any_store, name="sums")
    late = build(CountSpec(factor=3), {"words": words}, store=any_store, name="sums")
    unused = build(CountSpec(factor=4), {"words": words}, store=any_store, name="sums")
    _age(words, late, unused)
    built = run(sums.graph(any_store), any_store, Collecting(any_store))
    assert built["last"].metrics == {"total": 11}
    assert _refs(any_store) == {artifact.record.ref for artifact in built.values()}
    collect(any_store, 0, dry_run=False)  # the run has ended: nothing keeps what it used
    assert any_store.list() == []
    assert any_store.root.names(".uses") == []


def test_inputs_and_their_ancestors_are_kept_while_a_stage_runs(any_store: Store) -> None:
    words = build(WordsSpec(), {}, store=any_store, name="toy")
    one = build(CountSpec(), {"words": words}, store=any_store, name="toy")
    _age(words, one)

    def collecting(*progress: Any) -> None:
        collect(any_store, 0, dry_run=False)

    total = build(TotalSpec(), {"one": one}, store=any_store, name="toy")
    _age(total)
    again = build(CountSpec(factor=7), {"words": words}, store=any_store, name="toy", report=collecting)
    assert again.metrics == {"count": 14}
    assert _refs(any_store) == {words.record.ref, again.record.ref}


def _serve(url: str, kind: str, fingerprint: str, ready: Connection) -> None:
    from serving.keeping import keep_model

    keep_model(url, kind, fingerprint)
    ready.send("ready")
    ready.recv()  # until it is killed


def test_the_model_of_an_endpoint_is_kept_as_long_as_a_process_of_the_endpoint_lives(any_store: Store) -> None:
    words = build(WordsSpec(), {}, store=any_store, name="toy")
    model = build(CountSpec(), {"words": words}, store=any_store, name="toy")
    _age(words, model)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    endpoint = context.Process(target=_serve, args=(any_store.root.url, model.kind, model.fingerprint, theirs))
    endpoint.start()
    assert ours.recv() == "ready"
    try:
        assert collect(any_store, 0, dry_run=False) == []
        assert _refs(any_store) == {words.record.ref, model.record.ref}
    finally:
        endpoint.kill()  # as with its whole cluster: it can say nothing
        endpoint.join()
    assert len(collect(any_store, 0, dry_run=False)) == 2
    assert any_store.root.names(".uses") == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_an_endpoint_needs_no_more_than_to_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    from serving.keeping import keep_model

    model = build(WordsSpec(), {}, store=store, name="toy")

    def refuse(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Location, "write_bytes", refuse)
    keep_model(store.root.url, model.kind, model.fingerprint)
    assert "give it an alias" in caplog.text


# -- gone on with --------------------------------------------------------------------------------------------------


def _interrupted(store: Store, **inputs: Artifact) -> str:
    """A run that Ctrl-C ended in its second stage, whose first one was there; the place of what it left."""

    def interrupt(*progress: Any) -> None:
        draft.location.write_bytes("half.txt", b"x")
        raise KeyboardInterrupt

    spec = CountSpec(factor=9)
    draft = Draft.of(spec, dict(inputs), store, "toy")
    with pytest.raises(KeyboardInterrupt):
        build(spec, dict(inputs), store=store, name="toy", report=interrupt)
    return draft.location.url.removeprefix(f"{store.root.url}/")


def test_a_paused_run_can_be_gone_on_with_after_a_collection(any_store: Store) -> None:
    words = build(WordsSpec(), {}, store=any_store, name="toy")
    _age(words)
    place = _interrupted(any_store, words=words)
    assert collect(any_store, LONG_DAYS, dry_run=False) == []
    (kept,) = resumable(any_store, LONG_DAYS)
    assert (kept.place, kept.size_bytes, kept.kept) == (place, 1, True)
    assert "run the same command" in kept.reason
    done = build(CountSpec(factor=9), {"words": words}, store=any_store, name="toy")
    assert done.location.exists("half.txt")  # gone on with, not begun again
    assert resumable(any_store, LONG_DAYS) == []
    _age(done)
    assert len(collect(any_store, LONG_DAYS, dry_run=False)) == 2  # what it needed is needed no more
    assert any_store.root.names(".uses") == []


def test_work_that_was_given_up_goes_when_it_is_as_old_as_other_garbage(any_store: Store) -> None:
    words = build(WordsSpec(), {}, store=any_store, name="toy")
    _age(words)
    place = _interrupted(any_store, words=words)
    assert [item.place for item in collect(any_store, 0, dry_run=False)] == [words.record.ref, place]
    assert resumable(any_store, 0) == []
    assert any_store.root.names(".uses") == []


def test_the_age_of_begun_work_is_that_of_its_newest_change(store: Store) -> None:
    place = store.staging("words", "toy", "f" * 64)
    for name in ("state/one.bin", "two.bin"):
        place.write_bytes(name, b"x")
    old = datetime.datetime.fromisoformat(OLD).timestamp()
    for path in (place.path / "state/one.bin", place.path / "state", place.path):
        os.utime(path, (old, old))
    assert collect(store, LONG_DAYS, dry_run=True) == []
    os.utime(place.path / "two.bin", (old, old))
    assert [item.place for item in collect(store, LONG_DAYS, dry_run=True)] == [f".staging/words-{'f' * 12}"]


def test_a_full_disk_recommends_nothing_that_destroys_the_run(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    words = build(WordsSpec(), {}, store=store, name="toy")
    _age(words)

    def work() -> None:
        def full(*progress: Any) -> None:
            store.staging("count", "toy", "0" * 64).write_bytes("half.txt", b"x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "checkpoint.bin")

        build(CountSpec(), {"words": words}, store=store, name="toy", report=full)

    assert guarded(work) == 4
    assert "`ctl artifacts gc`" in capsys.readouterr().err
    _gc(store, 30)
    assert _refs(store) == {words.record.ref}
    assert store.staging("count", "toy", "0" * 64).exists("half.txt")


def test_a_full_disk_can_be_collected(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build(WordsSpec(), {}, store=store, name="toy")
    _age(old)

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Location, "create", full)  # a lease's file
    monkeypatch.setattr(Path, "mkdir", full)
    assert [item.place for item in collect(store, 0, dry_run=False)] == [old.record.ref]
    assert store.list() == [] and store.root.names("words") == []


# -- killed --------------------------------------------------------------------------------------------------------


class Killed(Exception):
    """No BaseException: the thread that talks to S3 would not bring it back."""


class Mortal:
    """Kills a collection at its n-th change of a file system: that change and all later ones do not happen."""

    LOCAL = ("replace", "unlink", "rmdir", "link", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, local: bool) -> None:
        self.left: int | None = None
        if local:
            for name in self.LOCAL:
                monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))
        else:
            import s3fs

            call = s3fs.S3FileSystem._call_s3

            async def mortal(fs: Any, method: Any, *arguments: Any, **options: Any) -> Any:
                name = method if isinstance(method, str) else method.__name__
                if name == "delete_objects" and self.left == 0:  # one request, and yet it may be half done
                    options["Delete"] = {"Objects": options["Delete"]["Objects"][:1]}
                    await call(fs, method, *arguments, **options)
                if name in ("put_object", "delete_object", "delete_objects"):
                    self._step()
                return await call(fs, method, *arguments, **options)

            monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", mortal)

    def _step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*arguments: Any, **options: Any) -> Any:
            self._step()
            return function(*arguments, **options)

        return mortal


def _bury(store: Store) -> None:
    """As if the process that holds leases had died: here it is that of the test."""
    for lease in store.root.names(".leases"):
        place = store.root / ".leases" / lease
        for name in place.names():
            if name.endswith(".json"):
                holder = msgspec.json.decode(place.read_bytes(name), type=Holder)
                place.write_bytes(name, msgspec.json.encode(msgspec.structs.replace(holder, started="gone")))


def _words(store: Store) -> Artifact:
    return build(WordsSpec(words=("a", "b", "c")), {}, store=store, name="toy")


def test_a_collection_killed_anywhere_leaves_what_can_be_built_and_collected(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal = Mortal(monkeypatch, any_store.root.is_local)
    any_store.staging("words", "toy", "e" * 64).write_bytes("half.txt", b"x")
    point, finished = 0, False
    while not finished:
        _age(_words(any_store))
        mortal.left = point
        try:
            collect(any_store, 0, dry_run=False)
            finished = True
        except Killed:
            point += 1
        mortal.left = None
        _bury(any_store)
        if point % 2:
            words = _words(any_store)
            assert problems(words) == [], point
            _age(words)
        collect(any_store, 0, dry_run=False)
        assert any_store.list() == []
        left = [name for name in any_store.root.walk() if not name.startswith(".leases/")]
        assert left == [], point
        assert collect(any_store, 0, dry_run=True) == []
    assert point > 5


def test_what_collections_of_old_left_is_collected(store: Store) -> None:
    """They removed the record first, and then the rest of the folder, in its place."""
    words = _words(store)
    words.location.remove(RECORD_FILE)
    found = collect(store, LONG_DAYS, dry_run=True)
    assert [(item.place, "half removed" in item.reason) for item in found] == [(words.record.ref, True)]
    collect(store, LONG_DAYS, dry_run=False)
    assert not words.location.exists()


def test_a_commit_replaces_a_folder_without_a_record(store: Store) -> None:
    words = _words(store)
    words.location.remove(RECORD_FILE)
    words.location.write_bytes("left.txt", b"x")
    again = _words(store)
    assert problems(again) == [] and sorted(again.record.files) == ["0.txt", "1.txt", "2.txt"]
    assert store.root.names(".staging") == [] and store.root.names(".trash") == []
