"""KubeRay's published CRDs and samples, where this machine has them; orders to render."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.kubernetes.schema import Schema, read_crds
from tests.conftest import ROOT

PUBLISHED = ROOT.parent / "shared" / "kubernetes"


def published(name: str) -> Path:
    if not (PUBLISHED / name).is_dir():
        pytest.skip(f"KubeRay's {name} are not here: they are published with its release, and not part of the project")
    return PUBLISHED / name


@pytest.fixture(scope="session")
def crds() -> Path:
    return published("crds")


@pytest.fixture(scope="session")
def samples() -> Path:
    return published("samples")


@pytest.fixture(scope="session")
def schemas(crds: Path) -> dict[tuple[str, str], Schema]:
    return read_crds(crds)
