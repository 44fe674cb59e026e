"""psycopg 3 prepares what it runs often, in a session that is another transaction's next; and how to have it not."""

from __future__ import annotations

import contextvars
from typing import Any

import peewee
import pytest

import peewee_web
from tests.core.working import Working
from tests.pgbouncer.bounced import Bounced, occupying, value

# psycopg's default `prepare_threshold`, and one.
OFTEN = 6


@pytest.fixture
def driver() -> str:
    return "psycopg3"


def prepared(database: Any) -> int:
    return int(value(database, "SELECT count(*) FROM pg_prepared_statements"))


def run(database: Any, scope: Any, sql: str, times: int = 1) -> list[str]:
    with scope.activate():
        return [value(database, sql, "x") for _ in range(times)]


def test_by_default_a_statement_is_missing_in_the_next_session(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(), prepare_threshold=5)
    with peewee_web.scope() as scope:
        run(database, scope, "SELECT %s::text", OFTEN)
        with occupying(database), pytest.raises(peewee.ProgrammingError, match=r"_pg3_0.* does not exist"):
            run(database, scope, "SELECT %s::text")


def test_by_default_a_request_may_get_the_rows_of_another_ones_statement(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(), prepare_threshold=5)
    mine, other = peewee_web.scope(), peewee_web.scope()
    assert run(database, mine, "SELECT 'mine, ' || %s::text", OFTEN) == ["mine, x"] * OFTEN
    with occupying(database):  # the session that knows mine
        run(database, other, "SELECT 'other, ' || %s::text", OFTEN)
    with occupying(database):
        # Both are called _pg3_0 by their connections, each in the session where it was prepared.
        assert run(database, mine, "SELECT 'mine, ' || %s::text") == ["other, x"]
    mine.end()
    other.end()


@pytest.mark.parametrize("given", ["in the URL", "as an option"])
def test_without_a_threshold_nothing_is_prepared(bounced: Bounced, given: str) -> None:
    server = bounced.start()
    if given == "in the URL":
        database = bounced.pool(server)
        assert "prepare_threshold=none" in server.url(bounced.name, prepare_threshold="none")
    else:
        database = peewee_web.connect(server.url(bounced.name), prefer_psycopg3=True, prepare_threshold=None)
        bounced.pools.append(database)
    assert database.connect_params["prepare_threshold"] is None

    def requests() -> None:
        for _ in range(3 * OFTEN):
            with peewee_web.scope(), database.atomic():
                assert value(database, "SELECT %s::text", "x") == "x"

    for thread in [Working(contextvars.Context(), requests) for _ in range(4)]:
        thread.result()
    with peewee_web.scope():
        assert prepared(database) == 0


def test_a_url_without_a_threshold_serves_psycopg2_as_well(bounced: Bounced) -> None:
    server = bounced.start()
    database = peewee_web.connect(server.url(bounced.name, prepare_threshold="none"), prefer_psycopg3=False)
    bounced.pools.append(database)
    assert type(database._adapter).__name__ == "Psycopg2Adapter"
    with peewee_web.scope():
        assert value(database, "SELECT %s::text", "x") == "x"


def test_in_session_mode_psycopg_may_prepare(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start("session"), prepare_threshold=5)
    with peewee_web.scope() as scope:
        run(database, scope, "SELECT %s::text", 3 * OFTEN)
        assert prepared(database) == 1
