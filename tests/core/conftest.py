"""A small pool on a SQLite file, and a check that a test leaves nothing checked out of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from peewee_web import PooledSqliteDatabase


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    """A pool of three with a table ``note (text)``; it must be whole again when the test is over."""
    database = PooledSqliteDatabase(
        str(tmp_path / "core.db"), max_connections=3, timeout=1, pragmas={"journal_mode": "wal", "busy_timeout": 5000}
    )
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text TEXT)")
    yield database
    left = list(database._in_use.values())
    database.close_all()
    assert left == []
