"""A database, PgBouncers before it, and pools before these, which a test must leave whole."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.core.working import in_use
from tests.pgbouncer.bounced import Bounced
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgres import PostgresServer


@pytest.fixture(params=["psycopg3", "psycopg2"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def name(postgres: PostgresServer) -> Iterator[str]:
    """Of a database with a table ``note (text)``."""
    name = f"bounced_{uuid.uuid4().hex[:12]}"
    postgres.create_database(name)
    postgres.execute("CREATE TABLE note (text VARCHAR(99))", database=name)
    postgres.execute("ALTER TABLE note OWNER TO app", database=name)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def bounced(
    driver: str, name: str, postgres: PostgresServer, pgbouncer: Callable[..., PgBouncerServer]
) -> Iterator[Bounced]:
    """The database with an empty table and no sessions; no PgBouncer yet."""
    postgres.kill_sessions(name)
    postgres.execute("TRUNCATE note", database=name)
    bounced = Bounced(driver, postgres, name, pgbouncer)
    yield bounced
    left = [in_use(database) for database in bounced.pools]
    for database in bounced.pools:
        database.close_all()
    assert left == [0] * len(left)
