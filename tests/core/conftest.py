"""Stores for the tests of the core: on the local disk and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.core.storage.store import Store


@pytest.fixture(scope="module")
def s3_url(s3_server: None) -> str:
    import s3fs

    s3fs.S3FileSystem().makedirs("lab", exist_ok=True)
    return "s3://lab/artifacts"


@pytest.fixture(params=["local", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("TRUNKLINE_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        return Store(tmp_path / "artifacts")
    root = f"{request.getfixturevalue('s3_url')}-{tmp_path.name}"
    return Store(root)
