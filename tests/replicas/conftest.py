"""Servers that replicate, as pytest fixtures: started when first asked for, once for the whole run.

A test that stops, pauses or promotes one of them calls `ensure_running()` when it is done.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
