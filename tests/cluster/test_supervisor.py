"""The process that runs a job: its record, output and end in the store, attempts, times and signals. No cluster."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cluster.control.durable.output import LogReader
from cluster.control.durable.records import JobRecord, all_jobs
from cluster.control.durable.shapes import Job, Policy, Submitted, now
from cluster.control.durable.turns import Standing, Turn, in_order
from cluster.control.growth import grown
from cluster.core.errors import InputError
from cluster.core.storage.location import Location
from tests.conftest import ROOT

pytestmark = pytest.mark.heavy

WAIT_SECONDS = 120


class Runner:
    """Runs jobs of Python code, as a head does, for the store below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, Location(folder / "store")

    def submitted(self, job_id: str, code: str, **policy: Any) -> Submitted:
        return Submitted(
            id=job_id,
            name="toy",
            command=(sys.executable, "-c", code),
            submission={},
            asked="",
            policy=Policy(**{"backoff_seconds": 0.0, **policy}),
            submitted_at=now(),
            user=policy.pop("user", "me"),
        )

    def start(self, submitted: Submitted, **environment: str) -> subprocess.Popen[bytes]:
        path = self.folder / f"{submitted.id}.json"
        path.write_bytes(msgspec.json.encode(submitted))
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.control.durable.supervisor", str(path)],
            cwd=ROOT,
            env={**os.environ, "TRUNKLINE_STORE": self.root.url, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, submitted: Submitted, **environment: str) -> tuple[int, bytes]:
        process = self.start(submitted, **environment)
        said, _ = process.communicate(timeout=WAIT_SECONDS)
        return process.returncode, said

    def job(self, job_id: str) -> Job:
        job = JobRecord(self.root, job_id).job()
        assert job
        return job

    def log(self, job_id: str) -> str:
        reader = LogReader(self.root, job_id)
        return "".join(reader.new()) + reader.rest()

    def events(self, job_id: str) -> list[str]:
        return [event.kind for event in JobRecord(self.root, job_id).events()]


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def until(true: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + WAIT_SECONDS, threading.Event()
    while not true():
        assert time.monotonic() < deadline
        pause.wait(0.02)  # a store sends no events


def test_a_job_leaves_its_output_and_its_end(runner: Runner) -> None:
    code = r"import os, sys; os.write(1, b'caf\xe9\n' + b'x' * 3_000_000); print('err', file=sys.stderr); sys.exit(7)"
    returned, said = runner.run(runner.submitted("first", code))
    job = runner.job("first")
    assert (returned, job.status, job.exit_code, job.attempt) == (7, "FAILED", 7, 1)
    assert runner.log("first").encode() == said.replace(b"\xe9", "\ufffd".encode())
    assert b"err\n" in said and len(said) > 3_000_000
    assert job.started_at and job.ended_at >= job.started_at >= job.submitted_at
    assert runner.events("first") == ["started", "failed"]
    assert all_jobs(runner.root) == [job]


def test_an_id_is_one_job(runner: Runner) -> None:
    """Whoever runs it again finds its end, or that it is being run, and runs nothing."""
    code = f"open({str(runner.folder / 'ran')!r}, 'a').write('x')"
    assert runner.run(runner.submitted("once", code))[0] == 0
    returned, said = runner.run(runner.submitted("once", "raise SystemExit(9)"))
    assert returned == 0 and b"has ended: SUCCEEDED" in said
    assert (runner.folder / "ran").read_text() == "x"
    waiting = runner.start(runner.submitted("busy", "import time; time.sleep(600)"))
    until(lambda: JobRecord(runner.root, "busy").is_alive())
    returned, said = runner.run(runner.submitted("busy", "print('twice')"))
    assert returned == 4 and b"is being run already" in said
    waiting.send_signal(signal.SIGTERM)
    assert waiting.communicate(timeout=WAIT_SECONDS) and runner.job("busy").status == "STOPPED"


FLAKY = """
import os, sys
tried = int(os.environ["TRUNKLINE_JOB_ATTEMPT"])
print("attempt", tried, flush=True)
sys.exit(0 if tried == 3 else {code})
"""


def test_codes_that_another_attempt_may_cure_get_one(runner: Runner) -> None:
    returned, said = runner.run(runner.submitted("flaky", FLAKY.format(code=75)))
    assert (returned, runner.job("flaky").status, runner.job("flaky").attempt) == (0, "SUCCEEDED", 3)
    assert [line for line in runner.log("flaky").splitlines() if line.startswith("attempt")] == [
        "attempt 1",
        "attempt 2",
        "attempt 3",
    ]
    assert runner.events("flaky") == ["started", "retry", "started", "retry", "started", "succeeded"]
    assert b"exit code 75: attempt 2 of 4 in 0 s" in said
    assert runner.run(runner.submitted("wrong", FLAKY.format(code=3)))[0] == 3
    assert runner.job("wrong").attempt == 1
    assert runner.run(runner.submitted("tried", FLAKY.format(code=3), retry_codes=(3,), retries=1))[0] == 3
    assert runner.job("tried").attempt == 2


def test_a_signal_is_an_exit_code_and_too_long_is_too_long(runner: Runner) -> None:
    assert runner.run(runner.submitted("killed", "import os; os.kill(os.getpid(), 9)"))[0] == 137
    returned, _ = runner.run(runner.submitted("long", "import time; time.sleep(600)", max_runtime_seconds=0.5))
    job = runner.job("long")
    assert (returned, job.status, job.exit_code) == (124, "FAILED", 124)
    assert job.message == "it ran longer than 0.5 s"


def test_a_stopped_job_saves_its_work(runner: Runner) -> None:
    code = (
        "import signal, sys, time\n"
        "def save(*_):\n    print('saved', flush=True)\n    sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    with runner.start(runner.submitted("stop", code)) as process:
        assert process.stdout and process.stdout.readline() == b"ready\n"
        assert (runner.job("stop").status, runner.job("stop").attempt) == ("RUNNING", 1)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b"saved\n"
    job = runner.job("stop")
    assert (job.status, job.exit_code, runner.events("stop")) == ("STOPPED", 130, ["started", "stopped"])


def test_what_is_dead_reads_lost_at_once_and_its_program_ends(runner: Runner) -> None:
    code = (
        "import os, time; print(os.getpid(), flush=True)\n"
        "time.sleep(600 if os.environ['TRUNKLINE_JOB_ATTEMPT'] == '1' else 0)"
    )
    with runner.start(runner.submitted("lost", code)) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert runner.job("lost").status == "RUNNING"
        process.kill()
        process.wait(WAIT_SECONDS)
        assert runner.job("lost").status == "LOST"
        until(lambda: not Path(f"/proc/{pid}").exists())
    assert runner.log("lost") == f"{pid}\n"
    # Another head goes on with it: the next attempt, of what was submitted first.
    assert runner.run(runner.submitted("lost", "raise SystemExit(9)"))[0] == 0
    assert (runner.job("lost").status, runner.job("lost").attempt) == ("SUCCEEDED", 2)
    began = [event.text for event in JobRecord(runner.root, "lost").events() if event.kind == "started"]
    assert began == ["attempt 1 began", "attempt 2 began: the process that ran the one before was lost"]


def test_a_stale_supervisor_ends_its_program_and_tells_nothing(runner: Runner) -> None:
    """Stopped for longer than its lease lives, while another machine took the job over; then woken."""
    script = (
        "import sys, msgspec; from pathlib import Path\n"
        "from cluster.control.durable import supervisor as s; from cluster.core.storage import holder\n"
        "holder.socket.gethostname = lambda: 'another'\n"
        "submitted = msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=s.Submitted)\n"
        "try: s.Supervisor(s.Location(sys.argv[1]), submitted, 2.0).run()\n"
        "except s.TrunklineError as error: print(error); sys.exit(error.exit_code)"
    )
    code = (
        "import os, time; n = os.environ['TRUNKLINE_JOB_ATTEMPT']; print('attempt', n, flush=True)\n"
        "time.sleep(600 if n == '1' else 0)"
    )
    submitted = runner.submitted("stale", code)
    path = runner.folder / "stale.json"
    path.write_bytes(msgspec.json.encode(submitted))
    command = [sys.executable, "-c", script, runner.root.url, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as stale:
        assert stale.stdout and stale.stdout.readline() == "attempt 1\n"
        stale.send_signal(signal.SIGSTOP)
        until(lambda: runner.job("stale").status == "LOST")
        assert runner.run(submitted)[0] == 0
        ended = runner.job("stale")
        stale.send_signal(signal.SIGCONT)
        said = stale.stdout.read()
    assert stale.returncode == 5 and "is run by another process by now" in said
    assert (ended.status, ended.attempt) == ("SUCCEEDED", 2) and runner.job("stale") == ended
    assert "".join(runner.log("stale").split()) == "attempt1attempt2"


def test_a_job_comes_after_others(runner: Runner) -> None:
    record = JobRecord(runner.root, "early")
    assert record.create(runner.submitted("early", ""))
    with runner.start(runner.submitted("late", "print('late')", after=("early",))) as late:
        try:
            assert late.stdout and late.stdout.readline() == b"job: waiting for job early, which is PENDING\n"
            job = runner.job("late")
            assert (job.status, job.message) == ("WAITING", "for job early, which is PENDING")
        finally:
            record.end("SUCCEEDED", 0, "")
        assert late.stdout.read() == b"late\n"
    returned, said = runner.run(runner.submitted("never", "print('late')", after=("late", "missing")))
    assert returned == 5 and b"missing, which this one comes after, is not in the store" in said
    JobRecord(runner.root, "broken").create(runner.submitted("broken", ""))
    JobRecord(runner.root, "broken").end("FAILED", 3, "")
    returned, said = runner.run(runner.submitted("neither", "print('late')", after=("broken",)))
    assert returned == 5 and runner.job("neither").status == "FAILED" and b"has failed" in said


class Hook(http.server.BaseHTTPRequestHandler):
    told: list[dict[str, Any]]

    def do_POST(self) -> None:
        self.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    told: list[dict[str, Any]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Hook,), {"told": told}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/canary-path", told
    server.shutdown()
    server.server_close()


def test_hooks_and_secrets_come_by_reference_and_stand_nowhere(
    runner: Runner, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    url, told = hook
    secret = runner.folder / "secret"
    secret.write_text("canary-token\n")
    policy = {"notify": ("env:HOOK", "env:NO_SUCH"), "secrets": {"TOKEN": f"file:{secret}"}, "retries": 1}
    code = "import os, sys; sys.exit(75 if os.environ['TOKEN'][:6] + '-token' == os.environ['TOKEN'] else 9)"
    assert runner.run(runner.submitted("told", code, **policy), HOOK=url)[0] == 75
    assert [message["metadata"]["event_type"] for message in told] == ["job_retry", "job_failed"]
    assert told[1]["text"] == "told: failed with exit code 75"
    assert runner.events("told").count("hook") == 2  # the one that is not set is told, and holds nothing up
    for name in runner.root.walk():
        assert b"canary" not in runner.root.read_bytes(name), name
    returned, said = runner.run(runner.submitted("without", code, secrets={"TOKEN": "env:NO_SUCH"}))
    assert returned == 4 and b"the variable is not set where the job runs" in said
    assert runner.job("without").status == "FAILED"


def test_what_a_program_says_has_happened_is_told(runner: Runner, hook: tuple[str, list[dict[str, Any]]]) -> None:
    """As training does where workers will lose their node, or have."""
    url, told = hook
    code = (
        "from ray.train.v2.api.preemption import PreemptionInfo\n"
        "from ray.train.v2._internal.execution.controller.state import PreemptingState, RestartingState\n"
        "from pipelines.stages.training.interruption import TellLosses\n"
        "info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={'a': [3, 1]})\n"
        "tell = TellLosses(print).after_controller_state_update\n"
        "tell(None, PreemptingState(info, 0.0)); tell(None, RestartingState(None)); tell(None, None)"
    )
    returned, said = runner.run(runner.submitted("spot", code, notify=("env:HOOK",)), HOOK=url)
    assert returned == 0, said
    assert b"training workers 1, 3 will lose their node: a checkpoint is written first\n" in said
    assert sorted(message["metadata"]["event_type"] for message in told) == [
        "job_preempted",
        "job_restarted",
        "job_succeeded",
    ]
    assert runner.events("spot") == ["started", "preempted", "restarted", "succeeded"]


def _standing(
    job_id: str, user: str, cpus: float, priority: int = 0, at: str = "1", admitted: bool = False
) -> Standing:
    demand = {"CPU": cpus}
    return Standing(id=job_id, user=user, demand=demand, priority=priority, submitted_at=at, admitted=admitted)


def test_the_order_of_a_queue() -> None:
    running = [_standing("r1", "ann", 6, admitted=True), _standing("r2", "bob", 2, admitted=True)]
    waiting = [
        _standing("a", "ann", 1, at="1"),
        _standing("b", "bob", 1, at="3"),
        _standing("b2", "bob", 1, at="2"),
        _standing("c", "cyd", 1, at="9"),
        _standing("urgent", "ann", 1, priority=5, at="9"),
        _standing("never", "cyd", 100, priority=9),
    ]
    order = [job.id for job in in_order(waiting, running, {"CPU": 8.0})]
    assert order == ["urgent", "c", "b2", "b", "a"]  # priority, then the smallest share, then age


def test_a_queue_gives_no_room_twice(runner: Runner) -> None:
    """Four jobs of two CPUs that want three: one at a time, in their order, and nobody waits for the dead."""
    root, stopping, told = runner.root, threading.Event(), list[str]()

    def turn(job_id: str, priority: int) -> tuple[Turn, Any]:
        submitted = msgspec.structs.replace(
            runner.submitted(job_id, "", queue=True, priority=priority), demand={"CPU": 2.0}
        )
        lease = JobRecord(root, job_id).lease(60.0)
        assert lease.acquire()
        return Turn(root, submitted, "cluster", told.append, lambda: {"CPU": 3.0}), lease

    turns = {job_id: turn(job_id, priority) for job_id, priority in (("low", 0), ("high", 2), ("mid", 1))}
    dead, lease = turn("dead", 9)
    lease.release()
    dead._stand(admitted=True)
    turns["low"][0].take(stopping)  # alone, and at once
    began: list[str] = []

    def wait(job_id: str) -> None:
        turns[job_id][0].take(stopping)
        began.append(job_id)
        turns[job_id][0].leave()

    threads = [threading.Thread(target=wait, args=(job_id,)) for job_id in ("mid", "high")]
    threads[0].start()
    until(lambda: "for 2 CPUs, 1 CPUs of 3 CPUs are free" in told)
    threads[1].start()
    until(lambda: "for its turn: 1 before it" in told or told.count("for 2 CPUs, 1 CPUs of 3 CPUs are free") == 2)
    assert began == []
    turns["low"][0].leave()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert began == ["high", "mid"]
    for _, held in turns.values():
        held.release()


def test_a_job_that_a_growing_cluster_can_hold_is_no_job_of_a_small_one(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's autoscaler adds a node for what asks for it; a job that waits for nodes to be there asks for nothing."""
    submitted = msgspec.structs.replace(runner.submitted("big", "", queue=True), demand={"CPU": 4.0})
    stopping, told = threading.Event(), list[str]()

    def tell(why: str) -> None:
        told.append(why)
        stopping.set()

    Turn(runner.root, submitted, "cluster", tell, lambda: grown({"CPU": 1.0})).take(stopping)
    assert told == ["for 4 CPUs, the cluster has 1 CPUs"]
    stopping.clear()
    monkeypatch.setenv("TRUNKLINE_GROWS_TO", '{"CPU": 4, "GPU": 0}')
    Turn(runner.root, submitted, "cluster", tell, lambda: grown({"CPU": 1.0})).take(stopping)
    assert len(told) == 1, "it has its turn"


def test_ids_are_names(runner: Runner) -> None:
    for wrong in ("", "../up", "a/b", ".hidden", "x" * 300):
        with pytest.raises(InputError, match="job id"):
            JobRecord(runner.root, wrong)
