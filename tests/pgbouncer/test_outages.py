"""PgBouncer's own time limits, and what a pool makes of it when PgBouncer, or PostgreSQL behind it, is down."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator
from typing import Any

import peewee
import psycopg
import pytest

import peewee_web
from peewee_web import DatabaseUnavailable, NoConnection
from peewee_web.core.faults import is_outage
from tests.core.working import Working, query, save
from tests.pgbouncer.bounced import PROMPT, SESSIONS, Bounced, loses, occupying, seconds, use
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until

# Seconds; PgBouncer looks at its time limits three times a second.
SHORT = 0.3


@pytest.fixture
def proxy(bounced: Bounced) -> Iterator[TcpProxy]:
    """Between PgBouncer and PostgreSQL."""
    with TcpProxy(bounced.postgres.host, bounced.postgres.port) as proxy:
        yield proxy


def go_down(proxy: TcpProxy) -> None:
    proxy.refuse()
    proxy.cut()


def is_served(database: Any) -> bool:
    with contextlib.suppress(peewee.OperationalError):
        use(database)
        return True
    return False


# PgBouncer ends what is idle.


def test_an_idle_client_that_was_hung_up_on_is_noticed_before_its_use(bounced: Bounced) -> None:
    server = bounced.start(client_idle_timeout=SHORT)
    database = bounced.pool(server)
    use(database)
    until(lambda: server.client_ports(bounced.name) == [])
    assert seconds(lambda: use(database)) < PROMPT
    stats = database.pool_stats()
    assert (stats.created, stats.lost) == (2, 1)


def test_a_request_between_two_statements_goes_on_with_another_connection(bounced: Bounced) -> None:
    server = bounced.start(client_idle_timeout=SHORT)
    database = bounced.pool(server)
    with peewee_web.scope():
        query(database)
        until(lambda: server.client_ports(bounced.name) == [])
        query(database)
    assert database.pool_stats().created == 2


def test_a_request_that_stands_still_in_a_transaction_loses_it(bounced: Bounced) -> None:
    server = bounced.start(idle_transaction_timeout=SHORT)
    database = bounced.pool(server)

    def stand_still() -> None:
        with database.atomic():
            save(database, "never")
            until(lambda: server.client_ports(bounced.name) == [])
            query(database)

    with peewee_web.scope():
        loses(stand_still)
    use(database)
    assert bounced.notes() == []


def test_a_session_that_pgbouncer_closes_is_no_concern_of_the_pools(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(server_idle_timeout=SHORT))
    use(database)
    until(lambda: bounced.sessions() == 0)
    use(database)
    stats = database.pool_stats()
    assert (stats.created, stats.probes, stats.lost) == (1, 0, 0)


# PgBouncer has nothing to lend.


def test_a_statement_waits_for_a_session_as_long_as_pgbouncer_lets_it(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(query_wait_timeout=SHORT))
    with occupying(database, SESSIONS):
        begun = time.monotonic()
        error = loses(lambda: use(database))
        assert SHORT <= time.monotonic() - begun < PROMPT
    assert is_outage(error)
    use(database)


def test_a_read_that_waited_for_a_session_in_vain_is_not_run_again(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start(query_wait_timeout=1.5))
    with occupying(database, SESSIONS):
        loses(lambda: use(database))
    assert database.pool_stats().created == SESSIONS + 1


def test_a_statement_gets_the_session_that_becomes_free_meanwhile(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server)
    with occupying(database, SESSIONS):
        waiting = Working(contextvars.Context(), lambda: use(database))
        until(lambda: "waiting" in [session.state for session in server.sessions()])
    waiting.result()


def test_too_many_clients_are_an_outage_until_one_leaves(bounced: Bounced) -> None:
    server = bounced.start(max_client_conn=1)
    database = bounced.pool(server, timeout=0.5)
    with contextlib.closing(psycopg.connect(server.url(bounced.name))):
        with pytest.raises(DatabaseUnavailable) as caught:
            use(database)
        assert "max_client_conn" in str(caught.value.__cause__)
    until(lambda: is_served(database))


def test_pgbouncers_limit_on_clients_may_be_met_in_the_middle(bounced: Bounced) -> None:
    server = bounced.start(max_client_conn=2)
    database = bounced.pool(server, max_connections=2)
    requests = [Working(contextvars.Context(), lambda: use(database)) for _ in range(8)]
    for request in requests:
        request.result()
    assert database.pool_stats().connect_errors == 0


# A session dies.


def test_a_killed_idle_session_is_replaced_by_pgbouncer(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start())
    with peewee_web.scope():
        query(database)
        assert bounced.postgres.kill_sessions(bounced.name) == 1
        query(database)
    assert database.pool_stats().lost == 0


def test_a_session_killed_in_a_transaction_takes_the_client_with_it(bounced: Bounced) -> None:
    database = bounced.pool(bounced.start())

    def lose_it() -> None:
        with database.atomic():
            save(database, "never")
            bounced.postgres.kill_sessions(bounced.name)
            query(database)

    with peewee_web.scope():
        loses(lose_it)
    use(database)
    assert bounced.notes() == []
    stats = database.pool_stats()
    assert (stats.created, stats.lost) == (2, 1)


# PgBouncer is gone.


def test_a_restarted_pgbouncer_is_noticed_before_the_next_statement(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server)
    with occupying(database, SESSIONS):
        pass
    server.restart()
    for _ in range(3):
        use(database)
    assert database.pool_stats().idle == 1


def test_a_transaction_does_not_outlive_its_pgbouncer(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server)

    def lose_it() -> None:
        with database.atomic():
            save(database, "never")
            server.restart()
            query(database)

    with peewee_web.scope():
        loses(lose_it)
    use(database)
    assert bounced.notes() == []


def test_without_pgbouncer_the_database_is_unavailable_until_it_is_back(bounced: Bounced) -> None:
    server = bounced.start()
    database = bounced.pool(server, timeout=0.5)
    use(database)
    server.stop()
    with pytest.raises(DatabaseUnavailable):
        use(database)
    server.start()
    until(lambda: is_served(database))


# PostgreSQL is gone.


def test_a_login_at_a_pgbouncer_that_never_saw_postgresql_ends_within_timeout(
    bounced: Bounced, proxy: TcpProxy
) -> None:
    go_down(proxy)
    database = bounced.pool(bounced.start(port=proxy.port, server_login_retry=SHORT), timeout=0.5)

    def refused() -> None:
        with pytest.raises(DatabaseUnavailable):
            use(database)

    assert seconds(refused) < 0.5 + PROMPT
    proxy.forward()
    until(lambda: is_served(database))


def test_without_postgresql_the_first_statement_waits_as_long_as_pgbouncer_lets_it_and_the_next_do_not(
    bounced: Bounced, proxy: TcpProxy
) -> None:
    server = bounced.start(port=proxy.port, query_wait_timeout=SHORT, server_login_retry=SHORT)
    database = bounced.pool(server)
    use(database)
    go_down(proxy)

    def refused() -> None:
        assert is_outage(loses(lambda: use(database)))

    assert SHORT <= seconds(refused) < PROMPT
    for _ in range(3):
        assert seconds(refused) < SHORT  # the login succeeds, the statement is refused at once
    proxy.forward()
    until(lambda: is_served(database))
    assert database.pool_stats().connect_errors == 0


def test_without_postgresql_a_request_finds_the_database_unavailable(bounced: Bounced, proxy: TcpProxy) -> None:
    database = bounced.pool(bounced.start(port=proxy.port, query_wait_timeout=SHORT, server_login_retry=SHORT))
    use(database)
    go_down(proxy)
    with pytest.raises(NoConnection):
        use(database)


def test_a_silent_postgresql_keeps_a_statement_as_long_as_pgbouncer_lets_it(bounced: Bounced, proxy: TcpProxy) -> None:
    database = bounced.pool(bounced.start(port=proxy.port, query_timeout=SHORT))

    def lose_it() -> None:
        with peewee_web.scope(), database.atomic():
            save(database, "never")
            proxy.freeze()
            save(database, "never")

    assert seconds(lambda: loses(lose_it)) < PROMPT
    proxy.cut()
    use(database)
    assert bounced.notes() == []
