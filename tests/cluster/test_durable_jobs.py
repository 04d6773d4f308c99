"""Jobs that outlive what they ran on: one id is one job, and records, logs and code are there when the head is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.control.durable.records import JobRecord
from cluster.core.storage.location import Location
from tests.cluster.local_cluster import LocalCluster, running

pytestmark = pytest.mark.heavy

SCRIPT = '''
from typing import ClassVar
from cluster.pipeline import main, pipeline
from pipelines.specs import Spec

class WorkSpec(Spec, frozen=True):
    """Work of a test."""

    kind: ClassVar[str] = "work"
    stage: ClassVar[str] = "helper:build"

    wait: str = ""
    """A file; the stage waits until it is gone."""
    number: int = 0
    """Something to vary."""

@pipeline
def durable(step):
    return step(WorkSpec())

if __name__ == "__main__":
    main(durable)
'''
HELPER = """
import threading
from pathlib import Path

WORD = "first"

def build(ctx):
    print("the word is", WORD, flush=True)
    while ctx.spec.wait and Path(ctx.spec.wait).exists():
        threading.Event().wait(0.1)
    return {}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A user's script beside a helper of its own, in a checkout of its own."""
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "mine.py").write_text(SCRIPT)
    (folder / "helper.py").write_text(HELPER)
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "mine"]):
        subprocess.run([*git, *command], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"})
    return folder / "mine.py"


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster that may be killed."""
    with running(tmp_path_factory.mktemp("home")) as made:
        yield made


def listed(cluster: LocalCluster) -> dict[str, str]:
    return {job["id"]: job["status"] for job in json.loads(cluster.ctl("jobs", "list", "--json"))}


def kill_the_head(cluster: LocalCluster, spared: int) -> None:
    """All at once, as a machine goes; but not the process that looks on."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(cluster.home) and process.pid != spared:
                process.send_signal(signal.SIGKILL)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def test_one_id_is_one_job_and_a_dry_run_is_none(local_cluster: LocalCluster, script: Path) -> None:
    before = listed(local_cluster)
    dry = local_cluster.ctl("submit", str(script), "--id", "nightly-1", "--dry-run")
    head = subprocess.run(
        ["git", "-C", str(script.parent), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout
    assert head[:12] in dry and "to build" in dry and "python mine.py" in dry
    assert f"http://127.0.0.1:{local_cluster.dashboard_port}" in dry
    told = json.loads(local_cluster.ctl("submit", str(script), "--dry-run", "--json"))
    assert (told["steps"][0]["built"], told["kept"], told["demand"]["CPU"] > 0) == (False, False, True)
    assert listed(local_cluster) == before
    said = local_cluster.ctl("submit", str(script), "--id", "nightly-1")
    assert "the word is first" in said and "built in" in said
    again = local_cluster.ctl("submit", str(script), "--id", "nightly-1")
    assert again.partition("\n")[2] == said.partition("\n")[2]  # its log, and no other run
    assert listed(local_cluster)["nightly-1"] == "SUCCEEDED"
    other = local_cluster.ctl("submit", str(script), "--id", "nightly-1", "--set", "work.number=2", code=3)
    assert "nightly-1" in other and "other fields" in other
    shown = json.loads(local_cluster.ctl("jobs", "show", "nightly-1", "--json"))
    assert head[:12] in shown["user_code"] and [event["text"] for event in shown["events"]][-1] == "succeeded"
    assert json.loads(local_cluster.ctl("submit", str(script), "--dry-run", "--json"))["kept"]


@pytest.mark.exhaustive
def test_a_job_goes_on_when_its_head_was_lost(own_cluster: LocalCluster, script: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.write_text("")
    waits = ("--set", f"work.wait={gate}", "--set", "work.number=7", "--name", "kept")
    job = own_cluster.ctl("submit", str(script), "--detach", *waits).strip()
    with own_cluster.popen("jobs", "logs", "-f", job) as follower:
        assert follower.stdout
        assert any("the word is first" in line for line in follower.stdout)
        assert listed(own_cluster) == {job: "RUNNING"}
        kill_the_head(own_cluster, follower.pid)
        rest = follower.stdout.read()
    assert follower.returncode == 5 and f"job {job} is lost" in rest
    assert listed(own_cluster) == {job: "LOST"}
    assert "the word is first" in own_cluster.ctl("jobs", "logs", job)
    assert "LOST" in own_cluster.ctl("jobs", "show", job)
    # What was submitted is what runs, whatever has become of the script.
    (script.parent / "helper.py").write_text(HELPER.replace("first", "second"))
    own_cluster.ctl("down")
    assert "left behind" not in own_cluster.up("--no-recover")
    assert listed(own_cluster) == {job: "LOST"}
    gate.unlink()
    assert f"A job goes on that the last head left behind: {job}." in own_cluster.up()  # it is up already
    assert own_cluster.ctl("jobs", "recover") == ""
    said = own_cluster.ctl("jobs", "logs", "-f", job)
    assert said.count("the word is first") == 2 and "second" not in said
    assert listed(own_cluster) == {job: "SUCCEEDED"}
    record = JobRecord(Location(own_cluster.home / "store"), job)
    assert [event.kind for event in record.events()] == ["started", "recovered", "started", "succeeded"]
    script.unlink()
    assert "--as-submitted" in own_cluster.ctl("jobs", "retry", job, code=3)
    again = own_cluster.ctl("jobs", "retry", "--as-submitted", job).strip()
    assert "is there" in own_cluster.ctl("jobs", "logs", "-f", again)
