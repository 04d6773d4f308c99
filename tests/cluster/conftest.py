"""The cluster that the tests of local, jobs and status share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.local_cluster import LocalCluster, running


@pytest.fixture(scope="package")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A running cluster, started by `ctl up` and ended by `ctl down`."""
    with running(tmp_path_factory.mktemp("home")) as made:
        yield made
