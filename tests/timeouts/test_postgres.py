"""The time limits of PostgreSQL's server: what they cost a request, and whether the pool notices."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web.core.faults import is_lost_connection
from tests.core.working import query
from tests.servers.postgres import PostgresServer
from tests.servers.waiting import until

Connect = Callable[..., Any]


@pytest.fixture(scope="module")
def name(postgres: PostgresServer) -> Iterator[str]:
    name = f"timeouts_{uuid.uuid4().hex[:12]}"
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


@pytest.fixture(params=["psycopg3", "psycopg2"])
def connect(request: pytest.FixtureRequest, name: str, postgres: PostgresServer, pools: list[Any]) -> Connect:
    """Makes a pool whose URL sets a parameter of its sessions."""

    def connect(setting: str) -> Any:
        url = postgres.url(name, options=f"-c {setting}", prefer_psycopg3=request.param == "psycopg3")
        pools.append(peewee_web.connect(url))
        return pools[-1]

    return connect


def use(database: Any) -> None:
    with peewee_web.scope():
        query(database)


def test_a_statement_that_takes_too_long_leaves_a_good_connection(connect: Connect) -> None:
    database = connect("statement_timeout=100ms")
    with peewee_web.scope():
        with pytest.raises(peewee.OperationalError, match="statement timeout") as caught:
            database.execute_sql("SELECT pg_sleep(30)")
        assert not is_lost_connection(caught.value)
        query(database)
    assert database.pool_stats().created == 1


def test_a_session_that_was_idle_for_too_long_is_noticed_before_its_use(
    connect: Connect, name: str, postgres: PostgresServer
) -> None:
    database = connect("idle_session_timeout=100ms")
    use(database)
    until(lambda: postgres.sessions(name) == [])
    use(database)
    stats = database.pool_stats()
    assert (stats.created, stats.lost) == (2, 1)


def test_a_transaction_that_stands_still_is_lost(connect: Connect, name: str, postgres: PostgresServer) -> None:
    database = connect("idle_in_transaction_session_timeout=100ms")

    def stand_still() -> None:
        with database.atomic():
            query(database)
            until(lambda: postgres.sessions(name) == [])
            query(database)

    with peewee_web.scope():
        with pytest.raises(peewee.PeeweeException) as caught:
            stand_still()
        assert is_lost_connection(caught.value.__cause__)
    use(database)
