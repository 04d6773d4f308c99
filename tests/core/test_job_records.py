"""A job's record and output on a local disk, on a mock of S3 and on a real one: one process writes, others read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from cluster.control.durable import packages
from cluster.control.durable.output import LogReader, Output
from cluster.control.durable.records import JobRecord, all_jobs
from cluster.control.durable.shapes import Submitted, now
from cluster.core.errors import InputError
from cluster.core.storage.store import Store
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy


def submitted(job_id: str, code: str = "") -> Submitted:
    return Submitted(
        id=job_id, name="toy", command=(sys.executable, "-c", code), submission={}, asked="", submitted_at=now()
    )


def test_a_job_is_run_and_told_of_wherever_its_store_is(any_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_bytes(msgspec.json.encode(submitted("far", "print('x' * 9_000_000, flush=True); raise SystemExit(3)")))
    command = [sys.executable, "-m", "cluster.control.durable.supervisor", str(path)]
    environment = {**os.environ, "TRUNKLINE_STORE": any_store.root.url}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=240, check=False)
    assert done.returncode == 3, done.stderr
    record = JobRecord(any_store.root, "far")
    job = record.job()
    assert job and (job.status, job.exit_code, job.attempt) == ("FAILED", 3, 1)
    assert all_jobs(any_store.root) == [job] and [event.kind for event in record.events()] == ["started", "failed"]
    reader = LogReader(any_store.root, "far")
    assert "".join(reader.new()) + reader.rest() == "x" * 9_000_000 + "\n"
    assert "far" not in "".join(any_store.places())  # no artifact


def test_output_is_read_while_it_is_written_each_byte_once(any_store: Store) -> None:
    output, reader, read = Output(any_store.root, "job", 1), LogReader(any_store.root, "job"), list[str]()
    whole = "".join(f"{number} Straße 文字\n" for number in range(400))
    data, pause = whole.encode(), threading.Event()
    for start in range(0, len(data), 997):  # characters are cut
        output.write(data[start : start + 997])
        read += reader.new()
        pause.wait(0.02)
    output.close()
    read += reader.new()
    second = Output(any_store.root, "job", 2)
    second.write(b"again\n")
    second.close()
    read += reader.new()
    assert "".join(read) + reader.rest() == whole + "again\n"


def test_of_many_submissions_of_one_id_one_is_the_job(any_store: Store) -> None:
    made: list[bool] = []
    threads = [
        threading.Thread(target=lambda: made.append(JobRecord(any_store.root, "one").create(submitted("one"))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    record = JobRecord(any_store.root, "one")
    assert sorted(made) == [False] * 7 + [True]
    found = [record.hand("http://head", number) for number in (1, 1, 2)]
    assert [handed and handed.ray_id for handed in found] == ["one", None, "one.2"]
    job = record.job()
    assert job and job.status == "PENDING"
    assert record.end("FAILED", 5, "first") and not record.end("SUCCEEDED", 0, "second")
    job = record.job()
    assert job and (job.status, job.message) == ("FAILED", "first")


def test_code_is_kept_once_and_comes_back_whole(any_store: Store, tmp_path: Path) -> None:
    archive, back = tmp_path / "code.zip", tmp_path / "back.zip"
    archive.write_bytes(os.urandom(100_000))
    sha256 = packages.keep(any_store.root, archive)
    assert packages.keep(any_store.root, archive) == sha256 and packages.is_kept(any_store.root, sha256)
    packages.fetch(any_store.root, sha256, back)
    assert back.read_bytes() == archive.read_bytes()
    (any_store.root / ".jobs" / "packages").write_bytes(f"{sha256}.zip", b"other")
    with pytest.raises(InputError, match="is damaged"):
        packages.fetch(any_store.root, sha256, back)
    with pytest.raises(InputError, match="is not in"):
        packages.fetch(any_store.root, "0" * 64, back)
