"""Submitting pipelines: what travels, how it is followed, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cluster.control import package
from cluster.control.jobs import Submission, submit
from cluster.core.errors import InputError
from cluster.core.provenance import PROJECT_ROOT
from cluster.core.storage.store import Store
from tests.cluster.local_cluster import CTL, LocalCluster, free_port
from tests.core.toys import WordsSpec
from tests.made import make

pytestmark = pytest.mark.heavy

SCRIPT = '''
"""A pipeline of one step."""
from typing import ClassVar, Literal

from cluster.core.specs.naming import File
from cluster.pipeline import main, pipeline
from pipelines.specs import Spec
from deep.names import KIND


class WorkSpec(Spec, frozen=True):
    """Work of a test."""

    kind: ClassVar[str] = KIND
    stage: ClassVar[str] = "tiny_stage:build"
    inputs: ClassVar[dict[str, str]] = {"words": "words"}
    optional_inputs: ClassVar[tuple[str, ...]] = ("words",)

    outcome: Literal["ok", "input-error", "wait", "odd-bytes", "long", "slow", "own-error"] = "ok"
    """How it ends."""
    number: int = 0
    """Something to vary."""
    path: File = ""
    """A file that the stage and a worker read."""


@pipeline
def tiny(step):
    return step(WorkSpec())


if __name__ == "__main__":
    main(tiny)
'''
STAGE = r"""
import os
import sys
import threading
import time
from pathlib import Path

from cluster.control import runtime
from cluster.core.errors import InputError
from deep import reading
from cluster.control.jobs import Submission, submit


def fail(number):
    for line in range(50):
        print("much of no interest", line, file=sys.stderr, flush=True)
    raise ValueError("the user's own mistake")


def build(ctx):
    names = sorted(str(p.relative_to(".")) for p in Path(".").rglob("*.txt"))
    print("here:", *names, flush=True)
    if ctx.spec.outcome == "input-error":
        raise InputError("no such corpus")
    if ctx.spec.outcome == "wait":
        threading.Event().wait()
    if ctx.spec.outcome == "odd-bytes":
        word = "Stra\u00dfe \u6587\u5b57\n".encode()
        for part in (b"caf\xe9\n", word[:5], word[5:]):
            os.write(1, part)
            time.sleep(2)  # a follower reads what there is
        os.write(1, b"NUL \0 inside\n" + b"10 %\r20 %\r\n" + b"x" * 5_000_000 + b"\n" + b"cut \xe6\x96")
        raise InputError("after all that")
    if ctx.spec.outcome == "long":
        for number in range(1100):
            os.write(1, (f"{number:07} " + "y" * 91 + "\n").encode() * 1000)
    if ctx.spec.outcome == "slow":
        for number in range(40):
            print(number, "z" * 1000, flush=True)
            time.sleep(0.3)
    runtime.connect(ctx.scaling)
    import ray

    if ctx.spec.outcome == "own-error":
        ray.get([ray.remote(fail).remote(number) for number in range(4)])
    from ray.dashboard.utils import get_address_for_submission_client

    if ctx.spec.path:
        # `read` is pickled by its name: the worker imports the module that stands beside the script.
        print("read:", ray.get(ray.remote(reading.read).remote(ctx.spec.path)), flush=True)
    asked = ray.remote(get_address_for_submission_client).remote(None)  # as Ray Train's own actors ask
    return {"cpus": ray.cluster_resources()["CPU"], "dashboard": ray.get(asked)}
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's pipeline, outside the project, beside files that must and files that must not travel."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "tiny.py").write_text(SCRIPT)
    (folder / "tiny_stage.py").write_text(STAGE)
    (folder / "words").mkdir()
    (folder / "words" / "list.text").write_text("carried")
    (folder / "deep").mkdir()
    (folder / "deep" / "names.py").write_text('KIND = "work"\n')
    (folder / "deep" / "reading.py").write_text("def read(path):\n    return open(path).read()\n")
    (folder / ".gitignore").write_text("secret.txt\n/out/\n")
    (folder / "secret.txt").write_text("do not ship")
    (folder / "shipped.txt").write_text("ship")
    for name in ("out", "deep"):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "a.txt").write_text("a")
        (folder / name / "b.txt").write_text("b")
    (folder / "deep" / ".gitignore").write_text("a.txt\n")
    return folder / "tiny.py"


def metrics(cluster: LocalCluster, name: str) -> dict[str, Any]:
    (record,) = (cluster.home / "store" / "work").glob(f"{name}-*/artifact.json")
    return dict(json.loads(record.read_text())["metrics"])


def dashboard(cluster: LocalCluster) -> str:
    return f"http://127.0.0.1:{cluster.dashboard_port}"


def test_a_job_runs_on_the_cluster(local_cluster: LocalCluster, script: Path) -> None:
    said = local_cluster.ctl("submit", str(script), "--name", "first")
    assert "here: deep/b.txt shipped.txt\n" in said
    (job,) = [job for job in json.loads(local_cluster.ctl("jobs", "list", "--json")) if job["id"].startswith("first-")]
    assert (job["status"], job["exit_code"]) == ("SUCCEEDED", 0)
    assert local_cluster.ctl("jobs", "show", job["id"], "--json")
    assert metrics(local_cluster, "first") == {"cpus": 2.0, "dashboard": dashboard(local_cluster)}
    again = local_cluster.ctl("jobs", "retry", job["id"]).strip()
    assert "is there" in local_cluster.ctl("jobs", "logs", "-f", again)


def test_a_job_is_what_was_submitted(local_cluster: LocalCluster, script: Path, tmp_path: Path) -> None:
    """Neither an alias that moves nor the folder that it runs in changes it, and a retry is the same once more."""
    store = Store(local_cluster.home / "store")
    one, two = (make(store, WordsSpec(words=(name,)), {}, {"1.txt": b"x"}, name) for name in ("one", "two"))
    store.set_alias("words@prod", one)
    path = os.path.relpath(script.parent / "words" / "list.text", PROJECT_ROOT)  # from where `ctl` is called
    given = ("--set", f"work.path={path}", "--set", "work.inputs.words=words@prod", "--name", "pinned")
    said = local_cluster.ctl("submit", str(script), *given)
    assert "read: carried" in said
    planned = json.loads(local_cluster.ctl("plan", str(script), *given, "--json"))
    assert planned[0]["built"]
    (job,) = [job for job in json.loads(local_cluster.ctl("jobs", "list", "--json")) if job["id"].startswith("pinned-")]
    store.set_alias("words@prod", two)
    again = local_cluster.ctl("jobs", "retry", job["id"]).strip()
    assert "is there" in local_cluster.ctl("jobs", "logs", "-f", again)
    assert [made.record.parents["words"].fingerprint for made in store.list("work") if made.name == "pinned"] == [
        one.fingerprint
    ]


def test_a_job_joins_the_cluster_that_it_was_given_to(
    local_cluster: LocalCluster, script: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Ray by itself sends a job's driver to whichever cluster of the machine started last."""
    later = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    try:
        later.up()
        said = local_cluster.ctl("submit", str(script), "--name", "joined", "--set", "work.number=3")
        assert "built in" in said
        assert metrics(local_cluster, "joined")["dashboard"] == dashboard(local_cluster)
    finally:
        later.ctl("down")


def test_a_job_ends_as_its_driver_does(local_cluster: LocalCluster, script: Path) -> None:
    said = local_cluster.ctl("submit", str(script), "--set", "work.outcome=input-error", code=3)
    assert "no such corpus" in said
    assert "exit code 3" in said


def test_an_error_of_the_users_own_is_one_sentence(local_cluster: LocalCluster, script: Path) -> None:
    said = local_cluster.ctl("submit", str(script), "--set", "work.outcome=own-error", code=5)
    lines = said.partition("here:")[2].splitlines()[1:]
    assert len(lines) == 2, said  # the job's sentence, and the submitter's
    assert "the user's own mistake" in lines[0] and "exit code 5" in lines[1]
    assert "Traceback" not in said and "no interest" not in said and "\x1b" not in said
    (folder,) = re.findall(r"The workers' logs are in (\S+)\.", lines[0])
    kept = [path.read_text(errors="replace") for path in Path(folder).glob("worker-*.err")]
    assert any("much of no interest 49" in text for text in kept)


def raw(cluster: LocalCluster, *arguments: str, **more: str) -> tuple[int, bytes]:
    """Exit code and output of `ctl`, byte by byte."""
    done = subprocess.run(
        [*CTL, *arguments],
        env=cluster.environment(**more),
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=480,
        check=False,
    )
    return done.returncode, done.stdout


ODD = (
    "caf\ufffd\n"  # a byte of Latin-1
    "Straße 文字\n"  # a character of which the parts came one after the other
    "NUL \0 inside\n10 %\r20 %\r\n" + "x" * 5_000_000 + "\ncut \ufffd"
).encode()


def test_no_byte_ends_the_log(local_cluster: LocalCluster, script: Path) -> None:
    odd = ("--set", "work.outcome=odd-bytes")
    code, said = raw(local_cluster, "submit", str(script), "--name", "odd", *odd)
    assert code == 3
    assert ODD in said and b"after all that" in said
    (job,) = [job["id"] for job in json.loads(local_cluster.ctl("jobs", "list", "--json")) if "odd-" in job["id"]]
    code, whole = raw(local_cluster, "jobs", "logs", job)
    assert (code, said.partition(b"here:")[2].startswith(whole.partition(b"here:")[2])) == (0, True)
    assert raw(local_cluster, "jobs", "logs", "-f", job)[0] == 3
    # Through a port-forward only the dashboard is there, under an address that no node has.
    forwarded = {"RAY_ADDRESS": dashboard(local_cluster).replace("127.0.0.1", "localhost"), "PYTHONIOENCODING": "utf-8"}
    assert raw(local_cluster, "jobs", "logs", job, **forwarded) == (0, whole)
    code, ascii_only = raw(local_cluster, "jobs", "logs", job, PYTHONIOENCODING="ascii")
    assert code == 0 and b"Stra\\xdfe" in ascii_only


def test_a_log_of_more_than_a_hundred_megabytes(local_cluster: LocalCluster, script: Path) -> None:
    code, said = raw(local_cluster, "submit", str(script), "--name", "long", "--set", "work.outcome=long")
    assert code == 0
    lines = [line for line in said.splitlines() if line.endswith(b"y" * 91)]
    assert len(lines) == 1_100_000
    assert [int(line[:7]) for line in lines[::1000]] == list(range(1100))


FOLLOW = """
import sys
from cluster.control import jobs
from cluster.core.storage.location import Location

received, reads, read = 0, 0, Location.read_range

def counted(*arguments):
    global received, reads
    data = read(*arguments)
    received, reads = received + len(data), reads + bool(data)
    return data

Location.read_range = counted
written = 0

def write(text):
    global written
    written += len(text)

jobs.follow(sys.argv[1], write)
print(written, received, reads)
"""


def test_following_reads_what_is_new(local_cluster: LocalCluster, script: Path) -> None:
    slow = ("--set", "work.outcome=slow")
    job = local_cluster.ctl("submit", str(script), "--name", "slow", "--detach", *slow).strip()
    command = [sys.executable, "-c", FOLLOW, job]
    environment = local_cluster.environment()
    done = subprocess.run(command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    written, received, reads = map(int, done.stdout.split())
    assert written > 40_000 and reads > 10
    assert received == written  # every byte once, in however many reads


def test_a_mistake_does_not_reach_the_cluster(local_cluster: LocalCluster, script: Path) -> None:
    before = local_cluster.ctl("jobs", "list", "--json")
    said = local_cluster.ctl("submit", str(script), "--set", "work.outcom=ok", code=3)
    assert "Did you mean 'outcome'?" in said
    assert local_cluster.ctl("jobs", "list", "--json") == before
    nowhere = {"TRUNKLINE_HOME": str(script.parent)}  # a mistake comes first, the missing cluster second
    local_cluster.ctl("submit", str(script), "--set", "work.outcom=ok", code=3, **nowhere)
    assert "ctl up" in local_cluster.ctl("submit", str(script), code=4, **nowhere)


def test_a_password_of_a_tracker_does_not_travel(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example")
    with pytest.raises(InputError, match=r"MLFLOW_TRACKING_URI: .* MLFLOW_TRACKING_PASSWORD on the cluster"):
        submit(Submission(str(script), {}, "", str(script.parent / "store")))


def test_stop_ends_a_job_and_its_followers(local_cluster: LocalCluster, script: Path) -> None:
    waits = ("--set", "work.outcome=wait", "--set", "work.number=1")
    job = local_cluster.ctl("submit", str(script), "--detach", *waits).strip()
    with local_cluster.popen("jobs", "logs", "-f", job) as follower:
        assert follower.stdout is not None
        assert any("here:" in line for line in follower.stdout)
        assert "STOPPED" in local_cluster.ctl("jobs", "stop", job)
        rest = follower.stdout.read()
    assert "was stopped" in rest
    assert follower.returncode == 5
    assert "STOPPED" in local_cluster.ctl("jobs", "stop", job)  # once more does no harm


def test_interrupting_submit_stops_the_job(local_cluster: LocalCluster, script: Path) -> None:
    waits = ("--set", "work.outcome=wait", "--set", "work.number=2")
    with local_cluster.popen("submit", str(script), "--name", "interrupted", *waits) as submitter:
        assert submitter.stdout is not None
        assert any("here:" in line for line in submitter.stdout)
        submitter.send_signal(signal.SIGINT)
        rest = submitter.stdout.read()
    assert submitter.returncode == 130
    assert "ctl jobs retry interrupted-" in rest
    assert "STOPPED" in local_cluster.ctl("jobs", "list").split("interrupted-")[1]


def test_a_stopped_job_and_a_hung_up_submitter_say_so(local_cluster: LocalCluster, script: Path) -> None:
    waits = ("--set", "work.outcome=wait", "--set", "work.number=4")
    with local_cluster.popen("submit", str(script), "--name", "hung-up", *waits) as submitter:
        assert submitter.stdout is not None
        assert any("here:" in line for line in submitter.stdout)
        submitter.send_signal(signal.SIGHUP)
        rest = submitter.stdout.read()
    assert submitter.returncode == 130
    assert "ctl jobs retry hung-up-" in rest
    (job,) = [j for j in json.loads(local_cluster.ctl("jobs", "list", "--json")) if j["id"].startswith("hung-up-")]
    assert job["status"] == "STOPPED"
    assert "ctl: stopped by SIGTERM. Run the same command to resume." in local_cluster.ctl("jobs", "logs", job["id"])


def test_an_unknown_job(local_cluster: LocalCluster) -> None:
    said = local_cluster.ctl("jobs", "logs", "no-such-job", code=3)
    assert "no job 'no-such-job'" in said


def test_what_travels(script: Path, tmp_path: Path) -> None:
    place = package.pack(script, tmp_path / "job.zip")
    names = zipfile.ZipFile(tmp_path / "job.zip").namelist()
    assert place == Path("tiny.py")
    assert {"tiny.py", "tiny_stage.py", "shipped.txt", "deep/b.txt", "cluster/control/jobs.py"} <= set(names)
    assert not {"secret.txt", "deep/a.txt", "out/a.txt", ".gitignore"} & set(names)
    assert not any("__pycache__" in name for name in names)
    package.pack(script, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "job.zip").read_bytes()


def test_of_the_project_the_whole_travels(tmp_path: Path) -> None:
    place = package.pack(PROJECT_ROOT / "pipelines" / "__init__.py", tmp_path / "job.zip")
    names = zipfile.ZipFile(tmp_path / "job.zip").namelist()
    assert place == Path("pipelines/__init__.py")
    assert "pyproject.toml" in names
    assert not any(name.startswith((".venv/", ".git/", "artifacts/")) for name in names)


def test_too_much_is_refused_before_anything_is_sent(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "LIMIT_BYTES", 100)
    with pytest.raises(InputError, match="gitignore"):
        package.pack(script, tmp_path / "job.zip")
