"""A small pool on a SQLite file, and a check that a test leaves nothing checked out of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import peewee_web
from peewee_web import PooledSqliteDatabase
from tests.core.working import Served, in_use


@pytest.fixture
def database(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    """A pool of three with a table ``note (text)``; it must be whole again when the test is over."""
    database = PooledSqliteDatabase(
        str(tmp_path / "core.db"), max_connections=3, timeout=1, pragmas={"journal_mode": "wal", "busy_timeout": 5000}
    )
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text TEXT)")
    yield database
    left = in_use(database)
    database.close_all()
    assert left == 0


@pytest.fixture(params=["psycopg3", "psycopg2", "pymysql"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A database of a real server, through each driver."""
    server = request.getfixturevalue("mariadb" if request.param == "pymysql" else "postgres")
    name = f"core_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    suffix = "?prefer_psycopg3=true" if request.param == "psycopg3" else ""
    served = Served(request.param, server, name, peewee_web.connect(server.url(name) + suffix, max_connections=4))
    with served.database.connection_context():
        served.database.execute_sql("CREATE TABLE note (text VARCHAR(99))")
    yield served
    left = in_use(served.database)
    served.database.close_all()
    server.drop_database(name)
    assert left == 0
