"""Whose commit it is: the truth, or `unknown` with the reason; and the user's own checkout beside Trunkline's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cluster.control.screen.view import View
from cluster.core import provenance
from cluster.core.identity import usercode
from cluster.core.lineage import lineage, render
from cluster.core.storage.artifact import Code
from cluster.core.storage.store import Store
from cluster.pipeline import load_script, run
from tests.conftest import ROOT


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def checkout(folder: Path) -> Path:
    """A checkout that holds a copy of Trunkline's core; returns the copy's provenance.py."""
    shutil.copytree(ROOT / "cluster", folder / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    git(folder, "init", "-q")
    git(folder, "add", "cluster")
    git(folder, "commit", "-qm", "one")
    return folder / "cluster" / "core" / "provenance.py"


def code_of(folder: Path, **environment: str) -> Code:
    """What a process that runs Trunkline from there says of its code."""
    program = "import msgspec; from cluster.core import provenance as p; print(msgspec.json.encode(p.code()).decode())"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TRUNKLINE_", "GIT_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**kept, "PYTHONPATH": str(folder), **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return msgspec.json.decode(done.stdout, type=Code)


def test_a_checkout_and_its_changes(tmp_path: Path) -> None:
    file = checkout(tmp_path / "ours")
    root = file.parents[2]
    commit = git(root, "rev-parse", "HEAD")
    assert code_of(root) == Code(commit, "", "", "ours")
    file.with_name("new.py").write_text("")
    first = code_of(root)
    file.with_name("new.py").write_text("changed")
    assert (first.commit, first.dirty == "", first.dirty == code_of(root).dirty) == (commit, False, False)
    with file.with_name("data").open("wb") as data:
        data.truncate(provenance.LARGE_BYTES + 1)  # not to be read
    assert code_of(root).dirty != first.dirty
    git(root, "remote", "add", "origin", "https://me:secret@example.org/team/ours.git")
    assert code_of(root).repository == "https://example.org/team/ours.git"
    hook = {"GIT_DIR": str(tmp_path / "other.git"), "GIT_WORK_TREE": str(tmp_path)}
    assert code_of(root, **hook).commit == commit


def test_a_tarball_inside_another_checkout_has_no_commit(tmp_path: Path) -> None:
    inside = checkout(tmp_path / "other" / "tarball").parents[2]
    subprocess.run(["rm", "-rf", str(inside / ".git")], check=True)
    git(tmp_path / "other", "init", "-q")
    git(tmp_path / "other", "commit", "-qm", "theirs", "--allow-empty")
    found = code_of(inside)
    assert (found.commit, found.dirty) == ("unknown", "")
    assert "the checkout 'other' around cluster/__init__.py does not hold it" in str(found)
    git(tmp_path / "other", "add", ".")
    git(tmp_path / "other", "commit", "-qm", "taken in")
    assert code_of(inside).commit == git(tmp_path / "other", "rev-parse", "HEAD")


def test_without_a_checkout_the_reason_is_told(tmp_path: Path) -> None:
    root = checkout(tmp_path / "ours").parents[2]
    assert "git cannot be asked" in code_of(root, PATH="").reason
    subprocess.run(["rm", "-rf", str(root / ".git")], check=True)
    assert code_of(root) == Code("unknown", "", "cluster is in no git checkout")
    git(root, "init", "-q")
    git(root, "add", ".")
    assert code_of(root).reason.startswith("git says: ")  # nothing is committed yet


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")
def test_a_shared_checkout_of_another_owner_tells_its_commit(tmp_path: Path) -> None:
    root = checkout(tmp_path / "ours").parents[2]
    commit = git(root, "rev-parse", "HEAD")
    for path in (root, *root.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    assert code_of(root).commit == commit
    os.chown(root / ".git", 12346, 12346)  # neither ours nor of who owns the code that is run
    found = code_of(root)
    assert (found.commit, "dubious ownership" in found.reason) == ("unknown", True)


SCRIPT = """
from typing import ClassVar

from cluster.pipeline import pipeline
from pipelines.specs import Spec


class NoteSpec(Spec, frozen=True):
    \"\"\"A note.\"\"\"

    kind: ClassVar[str] = "note"
    stage: ClassVar[str] = "editing:build"


@pipeline
def noted(step):
    step(NoteSpec())
"""
EDITING = """
from pathlib import Path

def build(ctx):
    (Path(__file__).parent / "later.py").write_text("written while the run is under way")
    Path(__file__).write_text(Path(__file__).read_text() + "# edited meanwhile\\n")
    return {}
"""


def test_a_record_has_the_users_checkout_as_it_was_at_the_start(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "noted.py").write_text(SCRIPT)
    (folder / "editing.py").write_text(EDITING)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "mine")
    provenance._checkout.cache_clear()
    artifact = run(load_script(folder / "noted.py").graph(store), store, View())["note"]
    record = artifact.record
    assert f"what stage names changed while it was read: remove {record.ref}" in capsys.readouterr().out
    assert record.user_code == Code(git(folder, "rev-parse", "HEAD"), "", "", "mine")
    assert record.code == provenance.code()
    assert f"script   {git(folder, 'rev-parse', 'HEAD')[:12]} of mine" in render(lineage(artifact))
    provenance._checkout.cache_clear()
    assert provenance.user_code().dirty  # type: ignore[union-attr]
    told = provenance.passed_on()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        usercode.use(ROOT / "pipelines" / "quickstart.py")
        assert provenance.user_code() is not None and provenance.passed_on() == told
    assert provenance.user_code() is None  # a script of ours: its commit is Trunkline's
