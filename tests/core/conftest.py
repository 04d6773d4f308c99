"""Stores for the tests of the core: on the local disk, on a mock of S3, and on a real one where there is one."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.core.storage.store import Store
from tests.conftest import ROOT

CEPH = ROOT.parent / "shared" / "s3" / "ceph.sh"
PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw")


@pytest.fixture(scope="module")
def s3_url(s3_server: None) -> str:
    import s3fs

    s3fs.S3FileSystem().makedirs("lab", exist_ok=True)
    return "s3://lab/artifacts"


@pytest.fixture(scope="session")
def ceph_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that leads to Ceph's object gateway, which runs on this machine as long as the tests do."""
    if not CEPH.exists():
        pytest.skip("the script that starts Ceph is not here: it is no part of the project")
    if missing := [program for program in PROGRAMS if not shutil.which(program)]:
        pytest.skip(f"Ceph is not installed: no {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("ceph") / "ceph"
    up = subprocess.run(["bash", str(CEPH), "up", str(folder)], capture_output=True, text=True, check=True)
    line = next(line for line in up.stdout.splitlines() if line.startswith("export "))
    try:
        yield dict(assignment.split("=", 1) for assignment in shlex.split(line)[1:])
    finally:
        subprocess.run(["bash", str(CEPH), "down", str(folder)], check=True)


@contextmanager
def on_ceph(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Lead to Ceph; gives the URL of a bucket."""
    import s3fs

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        s3fs.S3FileSystem().makedirs("lab", exist_ok=True)
        yield "s3://lab"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", "s3", pytest.param("ceph", marks=pytest.mark.heavy)])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        yield Store(tmp_path / "artifacts")
    elif request.param == "s3":
        yield Store(f"{request.getfixturevalue('s3_url')}-{tmp_path.name}")
    else:
        with on_ceph(request.getfixturevalue("ceph_environment"), monkeypatch) as bucket:
            yield Store(f"{bucket}/{tmp_path.name}")
