"""Pools on a SQLite file and on servers, which a test must leave whole; and servers to be reached past any pool."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import PooledSqliteDatabase
from tests.core import raw
from tests.core.working import Served, in_use
from tests.servers.child import ServerNotInstalled


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


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Any]]:
    """A PostgreSQL and a MariaDB server with TLS, by the drivers that speak to them."""
    with contextlib.ExitStack() as stack:
        try:
            postgres, mariadb = (
                stack.enter_context(contextlib.closing(start())) for start in (raw.secure_postgres, raw.secure_mariadb)
            )
        except ServerNotInstalled as error:
            pytest.skip(str(error))
        yield {**dict.fromkeys(raw.POSTGRES, postgres), **dict.fromkeys(raw.MYSQL, mariadb)}


@pytest.fixture(params=raw.DRIVERS)
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A driver that is installed, and that Peewee's class for it uses."""
    module = raw.module_of(request.param)
    if request.param in ("pymysql", "MySQLdb"):
        monkeypatch.setattr(peewee, "mysql", module)
    return str(request.param)


@pytest.fixture
def server(servers: dict[str, Any], driver: str) -> Iterator[Any]:
    """The server of *driver*, which a test may stop."""
    yield servers[driver]
    servers[driver].ensure_running()
