"""The cluster that the tests of local, jobs and status share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.local_cluster import LocalCluster, free_port


@pytest.fixture(scope="package")
def local_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A running cluster, started by `ctl up` and ended by `ctl down`."""
    made = LocalCluster(tmp_path_factory.mktemp("home"), free_port(), free_port())
    try:
        made.up()
        yield made
    finally:
        made.ctl("down")
