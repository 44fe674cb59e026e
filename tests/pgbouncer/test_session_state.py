"""What a request sets in its session when PgBouncer lends it for a transaction, for a statement, or for long."""

from __future__ import annotations

import pytest

import peewee_web
from peewee_web.core.faults import is_outage
from tests.core.working import query
from tests.pgbouncer.bounced import PROMPT, SESSIONS, Bounced, loses, occupying, seconds, use, value

# A lock that PostgreSQL gives to one session at a time, as often as that one asks.
TRY = "SELECT pg_try_advisory_lock(7)"
UNLOCK = "SELECT pg_advisory_unlock(7)"


# Transaction mode.


@pytest.mark.parametrize("reset", [None, "DISCARD ALL"])
def test_what_is_set_for_a_session_is_somebody_elses_next(bounced: Bounced, reset: str | None) -> None:
    database = bounced.pool(bounced.start(), reset=reset)
    with peewee_web.scope():
        database.execute_sql("SET work_mem = '5MB'")
        with occupying(database) as (other,):
            assert value(database, "SHOW work_mem") == "4MB"  # of another session: one's own setting is gone
            with other.activate():
                assert value(database, "SHOW work_mem") == "5MB"


def test_a_reset_meets_another_session_than_the_requests(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(), reset="DISCARD ALL")
    scope = peewee_web.scope()
    with scope.activate():
        database.execute_sql("SET work_mem = '5MB'")
    with occupying(database) as (other,):
        scope.end()  # and DISCARD ALL with it
        with other.activate():
            assert value(database, "SHOW work_mem") == "5MB"


def test_what_is_set_for_a_transaction_ends_with_it(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(default_pool_size=1))
    with peewee_web.scope():
        with database.atomic():
            database.execute_sql("SET LOCAL work_mem = '5MB'")
            assert value(database, "SHOW work_mem") == "5MB"
        assert value(database, "SHOW work_mem") == "4MB"


def test_a_lock_of_the_session_excludes_nobody_and_stays(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(default_pool_size=1))
    for _ in range(2):  # both have it, and neither gives it back
        with peewee_web.scope():
            assert value(database, TRY) is True
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert bounced.postgres.execute(held, database=bounced.name) == [(1,)]


def test_a_lock_of_the_transaction_excludes_the_others_and_ends_with_it(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start())
    attempt = "SELECT pg_try_advisory_xact_lock(7)"
    with occupying(database) as (other,):
        with other.activate():
            assert value(database, attempt) is True
        with peewee_web.scope():
            assert value(database, attempt) is False
    with peewee_web.scope():
        assert value(database, attempt) is True


# Statement mode.


def test_in_statement_mode_there_are_no_transactions(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start("statement"))
    use(database)
    with peewee_web.scope():
        loses(database.begin)  # PgBouncer hangs up
    use(database)


# Session mode.


@pytest.mark.parametrize(("reset", "found"), [(None, "5MB"), ("DISCARD ALL", "4MB")])
def test_in_session_mode_a_reset_cleans_the_session(bounced: Bounced, reset: str | None, found: str) -> None:
    database = bounced.pool(bounced.start("session"), reset=reset)
    with peewee_web.scope():
        database.execute_sql("SET work_mem = '5MB'")
        with occupying(database):
            assert value(database, "SHOW work_mem") == "5MB"
    database.close_idle()
    with peewee_web.scope():
        database.execute_sql("SET work_mem = '5MB'")
    with peewee_web.scope():
        assert value(database, "SHOW work_mem") == found


def test_in_session_mode_a_lock_of_the_session_excludes_the_others(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start("session"))
    with occupying(database) as (other,):
        with other.activate():
            assert value(database, TRY) is True
        with peewee_web.scope():
            assert value(database, TRY) is False
        with other.activate():
            assert value(database, UNLOCK) is True


def test_in_session_mode_an_idle_connection_keeps_its_session_from_other_processes(bounced: Bounced) -> None:
    server = bounced.start("session", query_wait_timeout=0.3)
    mine, other_process = bounced.pool(server), bounced.pool(server)
    with occupying(mine, SESSIONS):
        pass
    assert mine.pool_stats().idle == SESSIONS

    def refused() -> None:
        assert is_outage(loses(lambda: use(other_process)))

    assert seconds(refused) < PROMPT
    mine.close_idle()
    use(other_process)


def test_in_session_mode_connections_that_fit_are_served(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start("session"), max_connections=SESSIONS)
    with occupying(database, SESSIONS) as scopes:
        for scope in scopes:
            with scope.activate():
                query(database)
    assert bounced.sessions() == SESSIONS
