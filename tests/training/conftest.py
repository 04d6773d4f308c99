"""The tiny token store, once a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from tests.training.tiny import make_tokens


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root: Path = tmp_path_factory.mktemp("store")
    return make_tokens(Store(root))
