"""Servers that replicate, as pytest fixtures: started when first asked for, once for the whole run.

A test that stops, pauses or promotes one of them calls `ensure_running()` when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.replicas.served import Served
from tests.servers.fixtures import _run
from tests.servers.replication import MariaDBPair, PostgresCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    """A PostgreSQL primary and two standbys that no commit waits for."""
    yield from _run(PostgresCluster)  # type: ignore[arg-type, misc]


@pytest.fixture(scope="session")
def pair() -> Iterator[MariaDBPair]:
    """A MariaDB primary and its replica."""
    yield from _run(MariaDBPair)  # type: ignore[arg-type, misc]


@pytest.fixture
def make(cluster: PostgresCluster) -> Iterator[Callable[..., Served]]:
    """Two standbys, through psycopg 3 or what the test says."""
    made: list[Served] = []

    def make(prefer_psycopg3: str = "true", **options: Any) -> Served:
        options["url_options"] = {"prefer_psycopg3": prefer_psycopg3}
        made.append(Served(cluster.primary, cluster.standbys, options))
        made[-1].create()
        for _ in range(3):
            made[-1].Note.create(text="a row")
        made[-1].database.close()
        cluster.wait_until_caught_up()
        return made[-1]

    yield make
    cluster.ensure_running()
    for served in made:
        served.server = cluster.primary
        served.close()
