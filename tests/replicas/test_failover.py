"""No write that was acknowledged is lost in a failover, but what the servers themselves lose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.replicas.failover import fail_over
from tests.replicas.served import Served
from tests.servers.fixtures import _run
from tests.servers.replication import PostgresCluster


@pytest.fixture
def its_cluster() -> Iterator[PostgresCluster]:
    """One that is thrown away afterwards."""
    yield from _run(PostgresCluster)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("synchronous", [False, True], ids=["asynchronous", "synchronous"])
def test_a_failover_under_load(its_cluster: PostgresCluster, synchronous: bool) -> None:
    served = Served(its_cluster.primary, its_cluster.standbys, {"look_every": 0.5})
    served.create()
    its_cluster.wait_until_caught_up()
    outcome = fail_over(served, its_cluster, synchronous=synchronous)
    served.server = its_cluster.primary
    served.close()
    print(outcome)
    assert outcome.lost <= outcome.lost_by_replication
    assert outcome.doubled == 0
    if synchronous:
        assert outcome.lost == set()
