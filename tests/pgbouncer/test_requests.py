"""Requests whose pool takes its connections from a PgBouncer in transaction mode, with fewer sessions than clients."""

from __future__ import annotations

import contextvars
import logging
import threading

import peewee
import pytest
from playhouse.postgres_ext import ServerSide

import peewee_web
from peewee_web import NoConnection
from tests.core.working import Working, query, save
from tests.pgbouncer.bounced import SESSIONS, Bounced, occupying, use, value
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.waiting import until

CLIENTS = 6


def state_of(server: PgBouncerServer, bounced: Bounced) -> tuple[int, int, int]:
    """Sessions in use, sessions idle, clients."""
    (pool,) = (pool for pool in server.show("POOLS") if pool["database"] == bounced.name)
    return pool["sv_active"], pool["sv_idle"], pool["cl_active"]


def queries(server: PgBouncerServer, bounced: Bounced) -> int:
    (total,) = (total for total in server.show("STATS_TOTALS") if total["database"] == bounced.name)
    return int(total["query_count"])


def test_more_requests_than_sessions_take_turns_transaction_by_transaction(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server, max_connections=CLIENTS)
    all_here = threading.Barrier(CLIENTS)

    def requests(name: str) -> None:
        with peewee_web.scope():
            query(database)
            all_here.wait(10)
        for number in range(10):
            with peewee_web.scope():
                with database.atomic():
                    save(database, f"{name}{number}")
                    with database.atomic() as savepoint:
                        save(database, "never")
                        savepoint.rollback()
                assert value(database, "SELECT count(*) FROM note WHERE text = %s", f"{name}{number}") == 1

    working = [Working(contextvars.Context(), lambda name=name: requests(name)) for name in "abcdef"]
    for thread in working:
        thread.result()
    assert bounced.notes() == sorted(f"{name}{number}" for name in "abcdef" for number in range(10))
    assert bounced.sessions() == SESSIONS
    assert len(server.client_ports(bounced.name)) == CLIENTS
    stats = database.pool_stats()
    assert (stats.created, stats.lost, stats.connect_errors) == (CLIENTS, 0, 0)


def test_a_transaction_has_one_session_to_its_end(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start())
    with peewee_web.scope():
        with database.atomic():
            session = value(database, "SELECT pg_backend_pid()")
            with occupying(database):
                assert value(database, "SELECT pg_backend_pid()") == session
            assert value(database, "SELECT pg_backend_pid()") == session
        with occupying(database):  # of the two idle ones it gets that which was idle for the shortest time
            assert value(database, "SELECT pg_backend_pid()") != session


def test_threads_of_one_request_share_its_transaction(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start())
    with peewee_web.scope(), database.atomic():
        session = value(database, "SELECT pg_backend_pid()")
        threads = [Working(None, lambda: value(database, "SELECT pg_backend_pid()")) for _ in range(4)]
        assert {thread.result() for thread in threads} == {session}
    assert database.pool_stats().created == 1


def test_a_transaction_left_open_is_rolled_back_and_its_session_free(
    bounced: Bounced, caplog: pytest.LogCaptureFixture
) -> None:
    server = bounced.start()
    database = bounced.pool(server)
    with caplog.at_level(logging.WARNING, "peewee_web"), peewee_web.scope():
        database.begin()
        save(database, "left")
        assert state_of(server, bounced) == (1, 0, 1)
    assert "was left open" in caplog.text
    assert state_of(server, bounced) == (0, 1, 1)
    assert bounced.notes() == []
    assert database.pool_stats().size == 1


def test_a_failed_transaction_is_rolled_back_and_its_session_free(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server)
    with peewee_web.scope():
        database.begin()
        with pytest.raises(peewee.PeeweeException, match="nowhere"):
            database.execute_sql("SELECT * FROM nowhere")
    assert state_of(server, bounced) == (0, 1, 1)
    use(database)
    assert database.pool_stats().created == 1


def test_a_server_side_cursor_reads_within_one_transaction(bounced: Bounced) -> None:
    class Note(peewee.Model):
        text = peewee.CharField(primary_key=True)

    database = bounced.pool(bounced.start())
    rows = "INSERT INTO note SELECT to_char(number, '0000') FROM generate_series(1, 500) number"
    bounced.postgres.execute(rows, database=bounced.name)
    with database.bind_ctx([Note]), peewee_web.scope():
        found = []
        for note in ServerSide(Note.select(), array_size=50):
            found.append(note.text)
            if len(found) == 100:
                Working(contextvars.Context(), lambda: use(database)).result()
        assert len(found) == 500


def test_a_trusted_connection_costs_no_round_trip_through_pgbouncer(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server)
    use(database)
    before = queries(server, bounced)
    for _ in range(10):
        use(database)
    assert queries(server, bounced) - before == 10


def test_a_probe_is_one_query_more(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server, probe_after=0)
    use(database)
    before = queries(server, bounced)
    for _ in range(10):
        use(database)
    assert queries(server, bounced) - before == 20
    assert database.pool_stats().probes == 10
    assert database.pool_stats().created == 1


# What is said when a connection begins.


def test_nothing_that_connect_sets_needs_to_be_ignored_by_pgbouncer(bounced: Bounced) -> None:
    server = bounced.start(ignore_startup_parameters="")
    database = bounced.pool(server, keepalive=5, isolation_level="REPEATABLE READ", application_name="shop")
    with peewee_web.scope(), database.atomic():
        assert value(database, "SHOW transaction_isolation") == "repeatable read"
        assert value(database, "SHOW application_name") == "shop"
    assert {"keepalives_idle", "tcp_user_timeout", "connect_timeout"} <= set(database.connect_params)


def test_an_isolation_level_stays_within_the_transactions_of_its_pool(bounced: Bounced) -> None:
    server = bounced.start(default_pool_size=1)
    serializable, other = bounced.pool(server, isolation_level="SERIALIZABLE"), bounced.pool(server)
    with peewee_web.scope():
        query(serializable)
        with serializable.atomic():
            assert value(serializable, "SHOW transaction_isolation") == "serializable"
        assert value(other, "SHOW default_transaction_isolation") == "read committed"


def test_an_option_of_the_session_is_refused_at_the_login(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(), options="-c statement_timeout=1234")
    with pytest.raises(peewee.OperationalError, match="unsupported startup parameter") as caught:
        use(database)
    assert not isinstance(caught.value, NoConnection)  # waiting won't help


def test_an_option_that_pgbouncer_is_told_to_ignore_has_no_effect(bounced: Bounced) -> None:
    server = bounced.start(ignore_startup_parameters="options")
    database = bounced.pool(server, options="-c statement_timeout=1234")
    with peewee_web.scope():
        assert value(database, "SHOW statement_timeout") == "0"


def test_a_setting_of_the_database_counts_behind_pgbouncer(bounced: Bounced) -> None:
    setting = f"ALTER DATABASE {bounced.name} SET statement_timeout"
    bounced.postgres.execute(f"{setting} = '100ms'")
    database = bounced.pool(bounced.start())
    with peewee_web.scope():
        with pytest.raises(peewee.OperationalError, match="statement timeout"):
            database.execute_sql("SELECT pg_sleep(30)")
        query(database)
    assert database.pool_stats().lost == 0
    bounced.postgres.execute(f"{setting} TO DEFAULT")


def test_a_planned_restart_of_postgresql_is_a_pause(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server)
    use(database)
    server.execute("PAUSE")
    waiting = [Working(contextvars.Context(), lambda: use(database)) for _ in range(3)]
    until(lambda: [session.state for session in server.sessions()] == ["waiting"] * 3)
    bounced.postgres.kill_sessions(bounced.name)
    server.execute("RESUME")
    for thread in waiting:
        thread.result()
    assert database.pool_stats().lost == 0
