"""Leases: one winner whatever the order of events, a holder that is told in time, and a builder that stops."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.core.build import build
from cluster.core.errors import JobError
from cluster.core.storage.holder import Holder, alive, this_process
from cluster.core.storage.lease import Lease
from cluster.core.storage.location import Location
from cluster.core.storage.stopping import Stopped, stoppable
from cluster.core.storage.store import Store
from tests.conftest import ROOT
from tests.core.interleaving import Files, orders
from tests.core.toys import WordsSpec

pytestmark = pytest.mark.heavy

WAIT_SECONDS = 240  # for what takes a second


class Play:
    """One lease and those who want it; notes whoever holds it, and who would hold it beside another."""

    def __init__(self) -> None:
        self.place = Files()
        self.holding: set[int] = set()
        self.most = 0
        self.wins = 0

    def failed_builder(self) -> Callable[[], None]:
        lease = Lease(self.place)
        assert lease.acquire()
        return lease.release

    def killed_builder(self) -> None:
        self.failed_builder()
        (name,) = self.place.files
        holder = msgspec.json.decode(self.place.files[name], type=Holder)
        self.place.files[name] = msgspec.json.encode(msgspec.structs.replace(holder, started="gone"))

    def waiter(self, number: int, *, releases: bool) -> Callable[[], None]:
        def work() -> None:
            lease = Lease(self.place)
            if not lease.acquire():
                return
            self.holding.add(number)
            self.wins += 1
            self.most = max(self.most, len(self.holding))
            if releases:
                self.holding.discard(number)
                lease.release()

        return work


def _play(actors: Callable[[Play], list[Callable[[], None]]]) -> list[Play]:
    plays: list[Play] = []

    def begin() -> list[Callable[[], None]]:
        plays.append(Play())
        return actors(plays[-1])

    for order in orders(begin):
        assert plays[-1].most <= 1, order
    return plays


def test_of_two_waiters_after_a_failed_builder_one_holds_the_lease() -> None:
    plays = _play(lambda play: [play.failed_builder(), play.waiter(1, releases=False), play.waiter(2, releases=False)])
    assert len(plays) > 500
    assert {play.wins for play in plays} == {0, 1}  # none, where both looked before it had let go


def test_of_two_waiters_after_a_killed_builder_one_holds_the_lease() -> None:
    def actors(play: Play) -> list[Callable[[], None]]:
        play.killed_builder()
        return [play.waiter(1, releases=False), play.waiter(2, releases=False)]

    assert {play.wins for play in _play(actors)} == {1}


def test_a_waiter_that_looked_before_another_built_and_failed_holds_nothing_beside_a_third() -> None:
    def actors(play: Play) -> list[Callable[[], None]]:
        play.killed_builder()
        return [play.waiter(1, releases=True), play.waiter(2, releases=True)]

    assert {play.wins for play in _play(actors)} == {1, 2}


def test_the_first_of_all_is_one() -> None:
    plays = _play(lambda play: [play.waiter(1, releases=True), play.waiter(2, releases=True)])
    assert {play.wins for play in plays} == {1, 2}


def test_a_creation_whose_answer_was_lost_is_no_lost_race() -> None:
    """A client asks again where no answer came; then the file is there, and it is its own."""

    class Forgetful(Files):
        def create(self, name: str, data: bytes) -> bool:
            assert super().create(name, data)
            return super().create(name, data[:])

    place = Forgetful()
    lease = Lease(place)
    assert lease.acquire()
    lease.release()


# -- renewal -------------------------------------------------------------------------------------------------------


class Failing(Files):
    """Files that cannot be written so many times."""

    def __init__(self, failures: float) -> None:
        super().__init__()
        self.failures = failures
        self.written = threading.Event()

    def write_bytes(self, name: str, data: bytes) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().write_bytes(name, data)
        self.written.set()


def test_a_renewal_that_fails_is_tried_again() -> None:
    lost = threading.Event()
    place = Failing(2)
    lease = Lease(place, ttl_seconds=6, lost=lost.set)
    assert lease.acquire()
    assert place.written.wait(WAIT_SECONDS)
    lease.check()
    assert not lost.is_set()
    lease.release()


def test_a_lease_that_cannot_be_renewed_is_lost_when_others_may_take_it() -> None:
    lost = threading.Event()
    place = Failing(float("inf"))
    lease = Lease(place, ttl_seconds=1, lost=lost.set)
    begun = time.time()
    assert lease.acquire()
    assert lost.wait(WAIT_SECONDS)
    assert time.time() - begun >= 1
    with pytest.raises(JobError, match=r"could not be renewed for 1 s.*Input/output error"):
        lease.check()
    place.failures = 0
    lease.release()


def test_who_has_committed_loses_nothing_to_whoever_finishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit stands once its number is won: the heartbeat that finds a takeover then stops nobody."""
    monkeypatch.setattr("cluster.core.storage.lease.alive", lambda holder: False)
    before, lost, appeared = threading.enumerate(), threading.Event(), list[bytes]()
    heir = Lease(Location(tmp_path), appear=appeared.append)
    beats = list[threading.Thread]()

    def appear(data: bytes) -> None:
        assert heir.acquire()
        beats[0].join(WAIT_SECONDS)
        assert not beats[0].is_alive()
        appeared.append(data)

    lease = Lease(Location(tmp_path), ttl_seconds=0.3, lost=lost.set, appear=appear)
    assert lease.acquire()
    beats.extend(thread for thread in threading.enumerate() if thread not in before)
    lease.commit(b"made")
    lease.release()
    heir.release()
    assert appeared == [b"made", b"made"] and not lost.is_set() and not lease.is_lost


def test_a_build_that_lets_go_is_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = Lease.release

    def lost_meanwhile(lease: Lease) -> None:
        lease.lost()
        release(lease)

    monkeypatch.setattr(Lease, "release", lost_meanwhile)
    store = Store(tmp_path)
    made = build(WordsSpec(), {}, store=store, name="toy")
    assert store.resolve("toy").record == made.record


def _short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    def lease(store: Store, kind: str, fingerprint: str, lost: Callable[[], None] = lambda: None) -> Lease:
        return Lease(store.root / ".leases" / f"{kind}-{fingerprint[:12]}", ttl_seconds=1.5, lost=lost)

    monkeypatch.setattr(Store, "lease", lease)


def _take_over(store: Store) -> None:
    """As another machine does that has seen no renewal."""
    (name,) = store.root.names(".leases")
    holder = msgspec.structs.replace(this_process("another", 1000), host="another")
    assert (store.root / ".leases" / name).create("2.json", msgspec.json.encode(holder))


def _wait_in_main_thread(store: Store) -> None:
    def wait(*progress: Any) -> None:
        _take_over(store)
        threading.Event().wait(WAIT_SECONDS)

    build(WordsSpec(), {}, store=store, name="toy", report=wait)


def _work_in_another_thread(store: Store) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        def busy(*progress: Any) -> None:
            _take_over(store)
            end = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < end:
                try:
                    time.sleep(0.01)
                except Exception:  # what stops it must not be taken for an error to try again after
                    continue

        try:
            build(WordsSpec(), {}, store=store, name="toy", report=busy)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise errors[0]


def _hang_on_a_process(store: Store) -> None:
    def hang(*progress: Any) -> None:
        _take_over(store)
        subprocess.run([sys.executable, "-c", f"import time; time.sleep({WAIT_SECONDS})"], check=True)

    build(WordsSpec(), {}, store=store, name="toy", report=hang)


@pytest.mark.parametrize("stage", [_wait_in_main_thread, _work_in_another_thread, _hang_on_a_process])
def test_a_builder_stops_when_its_lease_is_taken_over(
    store: Store, monkeypatch: pytest.MonkeyPatch, stage: Callable[[Store], None]
) -> None:
    _short_leases(monkeypatch)
    begun = time.monotonic()
    with pytest.raises(JobError, match="taken over by another run"):
        stage(store)
    assert time.monotonic() - begun < WAIT_SECONDS / 2
    assert store.list() == []


def test_a_builder_stops_when_its_lease_cannot_be_renewed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _short_leases(monkeypatch)
    write = Location.write_bytes

    def failing(place: Location, name: str, data: bytes) -> None:
        if ".leases" in place.url:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        write(place, name, data)

    def wait(*progress: Any) -> None:
        monkeypatch.setattr(Location, "write_bytes", failing)
        try:
            threading.Event().wait(WAIT_SECONDS)
        finally:
            monkeypatch.setattr(Location, "write_bytes", write)

    with pytest.raises(JobError, match="could not be renewed"):
        build(WordsSpec(), {}, store=store, name="toy", report=wait)
    assert store.list() == []


def test_what_is_stopped_too_late_goes_on() -> None:
    for _ in range(200):
        with stoppable() as stop:
            pass
        stop()
    with pytest.raises(Stopped), stoppable() as stop:
        threading.Thread(target=stop).start()
        threading.Event().wait(WAIT_SECONDS)


# -- who lives -----------------------------------------------------------------------------------------------------


def test_containers_that_share_a_hosts_name_do_not_judge_each_other_by_process_ids() -> None:
    ours = this_process("owner", 60)
    assert ours.pid_namespace and alive(ours)
    there = msgspec.structs.replace(ours, pid_namespace="pid:[1]", pid=1 << 22, started="1")
    assert alive(there)
    assert not alive(msgspec.structs.replace(there, expires_at=time.time() - 1))
    assert not alive(msgspec.structs.replace(there, pid_namespace=ours.pid_namespace))  # here it would have died


def test_a_lease_written_before_there_were_namespaces_is_read() -> None:
    fields = msgspec.to_builtins(this_process("owner", 60))
    del fields["pid_namespace"]
    old = msgspec.json.decode(msgspec.json.encode(fields), type=Holder)
    assert alive(old)
    expired = msgspec.structs.replace(old, expires_at=time.time() - 1)
    assert alive(expired)  # it is here, and lives
    assert alive(msgspec.structs.replace(old, started="gone"))  # it may live in another namespace
    assert not alive(msgspec.structs.replace(expired, started="gone"))


@pytest.mark.parametrize("data", [b"", b'{"owner":'])
def test_a_lease_that_a_power_cut_has_torn_expires(tmp_path: Path, data: bytes) -> None:
    place = Location(tmp_path / "lease")
    place.write_bytes("3.json", data)
    lease = Lease(place)
    assert lease.holder() is not None and not lease.acquire()
    path = tmp_path / "lease" / "3.json"
    for touched in (path, path.parent):
        os.utime(touched, (0, 0))
    assert lease.holder() is None and lease.acquire() and lease.number == 4
    lease.release()


def test_a_holder_in_another_pid_namespace_is_respected(tmp_path: Path) -> None:
    unshare = [shutil.which("unshare") or "unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not let us make a PID namespace")
    code = (
        "import sys; from cluster.core.storage.lease import Lease; from cluster.core.storage.location import Location\n"
        "lease = Lease(Location(sys.argv[1])); taken = lease.acquire(); print(taken, flush=True)\n"
        "sys.stdin.read(); taken and lease.release()"
    )
    command = [*unshare, sys.executable, "-c", code, str(tmp_path / "lease")]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as there:
        assert there.stdin and there.stdout
        assert there.stdout.readline() == "True\n"
        assert not Lease(Location(tmp_path / "lease")).acquire()
        there.stdin.close()
        assert there.wait(WAIT_SECONDS) == 0
    ours = Lease(Location(tmp_path / "lease"))
    assert ours.acquire()
    ours.release()
