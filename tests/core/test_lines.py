"""Files of JSON lines: every line once through kills and cuts, in segments on an object store, at a bounded cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.core.metrics import MetricsLog
from cluster.core.metrics import read as read_metrics
from cluster.core.storage.lines import SEGMENT_BYTES, Follower, LineFile, read
from cluster.core.storage.location import Location
from cluster.core.storage.store import Store
from pipelines.stages.alignment.ledger import LEDGER_FILE, Ledger
from pipelines.stages.alignment.ledger import read as read_ledger

pytestmark = pytest.mark.heavy

FILE = "x.jsonl"
TEXT = "x" * 1000
LINES = 3 * SEGMENT_BYTES // 1000


class Written:
    """Counts the bytes that are sent to the store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes, self.most = 0, 0
        write = Location.write_bytes

        def count(place: Location, name: str, data: bytes) -> None:
            self.bytes += len(data)
            self.most = max(self.most, len(data))
            write(place, name, data)

        monkeypatch.setattr(Location, "write_bytes", count)


def _steps(place: Location) -> list[int]:
    return [line["step"] for line in read(place, FILE)]


def test_a_line_costs_the_same_however_many_came_before(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Written(monkeypatch)
    place = any_store.root / "run"
    file = LineFile(place, FILE)
    for step in range(LINES):
        file.append({"step": step, "text": TEXT})
        file.flush()
    assert _steps(place) == list(range(LINES))
    assert written.most < SEGMENT_BYTES + 2000
    assert len(place.names()) == (1 if place.is_local else 4)


def test_it_goes_on_and_is_cut_back(any_store: Store) -> None:
    place = any_store.root / "run"
    follower = Follower(place, FILE)
    assert follower.lines() == []
    file = LineFile(place, FILE)
    for step in range(LINES):
        file.append({"step": step, "text": TEXT})
        if step % 50 == 0:
            file.flush()
            assert [line["step"] for line in follower.lines()] == _steps(place)
    file.flush()
    for cut in (LINES - 2, LINES - 60, 70, 3, -1):
        again = LineFile(place, FILE, lambda line, cut=cut: line["step"] <= cut)  # type: ignore[misc]
        assert _steps(place) == list(range(cut + 1))
        assert [line["step"] for line in follower.lines()] == _steps(place)
        for step in range(cut + 1, cut + 4):
            again.append({"step": step, "text": TEXT})
        again.flush()
        assert _steps(place) == list(range(cut + 4))
        assert [line["step"] for line in follower.lines()] == _steps(place)


def test_segments_are_read_wherever_they_are(any_store: Store, tmp_path: Path) -> None:
    place = any_store.root / "run"
    file = LineFile(place, FILE)
    for step in range(LINES):
        file.append({"step": step, "text": TEXT})
        file.flush()
    place.get(tmp_path / "copy")
    copy = Location(tmp_path / "copy")
    assert _steps(copy) == list(range(LINES))
    assert [line["step"] for line in Follower(copy, FILE).lines()] == list(range(LINES))


def test_a_file_written_whole_before_there_were_segments_is_gone_on_with(any_store: Store) -> None:
    place = any_store.root / "run"
    old = b"".join(json.dumps({"step": step, "text": TEXT}).encode() + b"\n" for step in range(2 * LINES))
    place.write_bytes(FILE, old)
    file = LineFile(place, FILE)
    file.append({"step": 2 * LINES})
    file.flush()
    assert _steps(place) == list(range(2 * LINES + 1))
    assert place.read_bytes(FILE).startswith(old)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    place = Location(tmp_path)
    follower = Follower(place, FILE)
    (tmp_path / FILE).write_bytes(b'{"step": 1}\n{"st')
    assert follower.lines() == [{"step": 1}]
    LineFile(place, FILE).append({"step": 2})
    assert read(place, FILE) == [{"step": 1}, {"step": 2}]
    assert follower.lines() == [{"step": 1}, {"step": 2}]


def test_metrics_and_ledgers_are_written_line_by_line(any_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    place = any_store.root / "run"
    log, ledger = MetricsLog(place, "run", step=0), Ledger(place)
    written = Written(monkeypatch)
    prompts = [TEXT]
    for step in range(LINES):
        log.write({"step": step, "loss": 1.0, "notices": prompts})
        log.flush()
        ledger.issued(step, step, prompts)
        ledger.consumed(step, [0])
    log.close()
    assert written.most < SEGMENT_BYTES + 3000
    assert [line["step"] for line in read_metrics(place)] == list(range(LINES))
    assert [e["step"] for e in read_ledger(place)] == [step for step in range(LINES) for _ in range(2)]
    assert [e["step"] for e in Ledger(place).events] == [e["step"] for e in read_ledger(place)]
    assert place.exists(LEDGER_FILE)
