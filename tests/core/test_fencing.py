"""A stale attempt, stopped while another took its lease over and then woken, can commit nothing and write no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.core.build import build
from cluster.core.errors import JobError
from cluster.core.storage.lease import Lease
from cluster.core.storage.store import Store, problems
from tests.conftest import ROOT
from tests.core.interleaving import Files, orders
from tests.core.toys import WordsSpec

pytestmark = pytest.mark.heavy

# Of a machine of another name: whether it lives is known by its lease's expiry alone. It stops itself at one point.
STALE = """
import os, signal, sys
from cluster.core.build import build
from cluster.core.storage import holder
from cluster.core.storage.lease import Lease
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from tests.core import toys

root, point = sys.argv[1:]
create, appear = Location.create, Store.appear
holder.socket.gethostname = lambda: "another-machine"

def stop_at(here):
    if here == point:
        os.kill(os.getpid(), signal.SIGSTOP)

def lease(store, kind, fingerprint, lost=lambda: None):
    return Lease(store.root / ".leases" / f"{kind}-{fingerprint[:12]}", 2.0, lost, store.appear)

def watched_create(place, name, data):
    if name == "2.json":
        stop_at("commit")
    return create(place, name, data)

def watched_appear(store, data):
    stop_at("appearing")
    appear(store, data)

def stage(ctx):
    ctx.output.write_bytes("0.txt", b"one")
    ctx.output.write_bytes("1.txt", b"two")
    stop_at("stage")
    if point == "stage":
        ctx.output.write_bytes("0.txt", b"stale")
    return {"words": 2}

Store.lease, Location.create, Store.appear, toys.build_words = lease, watched_create, watched_appear, stage
build(toys.WordsSpec(), {}, store=Store(root), name="toy")
"""


@pytest.mark.parametrize("point", ["stage", "commit", "appearing"])
def test_a_process_that_was_stopped_and_woken_writes_no_artifact(any_store: Store, point: str) -> None:
    command = [sys.executable, "-c", STALE, any_store.root.url, point]
    with subprocess.Popen(command, cwd=ROOT, text=True, stderr=subprocess.PIPE) as stale:
        os.waitid(os.P_PID, stale.pid, os.WSTOPPED | os.WNOWAIT)
        assert any_store.list() == []
        made = build(WordsSpec(), {}, store=any_store, name="toy")  # waits until the other's lease has expired
        seen = sorted(any_store.root.walk())
        stale.send_signal(signal.SIGCONT)
        _, said = stale.communicate(timeout=240)
    # What had committed was made to appear by the one that took over; otherwise that one built it.
    assert made.record.attempt == (1 if point == "appearing" else 2)
    if point == "appearing":  # both finished one commit
        assert (stale.returncode, said) == (0, ""), said
    else:
        assert stale.returncode and "was taken over by another run" in said, said
    (found,) = any_store.list()
    assert problems(found) == [] and found.record == made.record
    assert [found.location.read_bytes(name) for name in ("0.txt", "1.txt")] == [b"one", b"two"]
    changed = set(any_store.root.walk()) ^ set(seen)  # what has ended well takes its use away
    assert all(name.startswith(".uses/") for name in changed) and list(any_store.unfinished()) == []


def test_workers_of_a_stale_attempt_write_nothing_either(any_store: Store) -> None:
    """A place to write to travels to other machines, and the lease's number with it."""
    import pickle

    from cluster.core.storage.fence import FencedLocation

    lease, heir = any_store.lease("words", "a" * 64), any_store.lease("words", "a" * 64)
    assert lease.acquire()
    place = FencedLocation(any_store.staging("words", "toy", "a" * 64).url, lease.fence)
    worker = pickle.loads(pickle.dumps(place / "deep"))
    worker.write_bytes("early.txt", b"early")
    lease.release()
    assert heir.acquire()
    late = pickle.loads(pickle.dumps(place))  # of a worker that looks for the first time
    for write in (
        lambda: late.write_bytes("late.txt", b"late"),
        lambda: late.open("late.txt", "wb"),
        lambda: late.create("late.txt", b"late"),
        lambda: late.write_file("late.txt", Path(__file__)),
        lambda: (late / "deep").remove("early.txt"),
    ):
        with pytest.raises(JobError, match="taken over"):
            write()
    assert sorted(any_store.staging("words", "toy", "a" * 64).walk()) == ["deep/early.txt"]
    heir.release()


class Play:
    """Some leases on one thing, and what appeared by their commits."""

    def __init__(self) -> None:
        self.place = Files()
        self.appeared: set[bytes] = set()
        self.succeeded: set[bytes] = set()

    def lease(self) -> Lease:
        return Lease(self.place, appear=self.appeared.add)

    def commits(self, lease: Lease, data: bytes) -> None:
        try:
            lease.commit(data)
        except JobError:
            return
        self.succeeded.add(data)

    def stale(self) -> Callable[[], None]:
        lease = self.lease()
        assert lease.acquire()
        return lambda: self.commits(lease, b"stale")

    def heir(self) -> None:
        lease = self.lease()
        if lease.acquire() and not self.appeared:
            self.commits(lease, b"heir")

    def passing(self) -> None:
        """One that takes the lease, fails and lets go; then another takes it."""
        first, second = self.lease(), self.lease()
        if first.acquire():
            first.release()
            second.acquire()


def _played(monkeypatch: pytest.MonkeyPatch, other: str) -> list[Play]:
    """Every order of a stale holder's commit and another's work. Whoever looks takes each holder for dead."""
    monkeypatch.setattr("cluster.core.storage.lease.alive", lambda holder: False)
    plays: list[Play] = []

    def begin() -> list[Callable[[], None]]:
        plays.append(Play())
        return [plays[-1].stale(), getattr(plays[-1], other)]

    for order in orders(begin):
        play = plays[-1]
        assert len(play.appeared) <= 1 and play.succeeded <= play.appeared, order
    return plays


def test_of_a_stale_commit_and_a_takeover_one_wins_whatever_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    plays = _played(monkeypatch, "heir")
    assert len(plays) > 100
    assert {frozenset(play.appeared) for play in plays} == {frozenset({b"stale"}), frozenset({b"heir"})}


@pytest.mark.exhaustive
def test_a_number_that_was_won_let_go_of_and_removed_commits_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plays = _played(monkeypatch, "passing")
    assert {frozenset(play.appeared) for play in plays} == {frozenset({b"stale"}), frozenset()}
