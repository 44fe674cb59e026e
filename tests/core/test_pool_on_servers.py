"""The pool and real servers: what it notices of them, at what cost, and for how long anybody waits.

Each database is reached through a proxy that can misbehave.
"""

from __future__ import annotations

import contextvars
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import DatabaseUnavailable, NoConnection
from tests.core.working import PATIENCE, Working, query
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until

DRIVERS = ("psycopg3", "psycopg2", "pymysql")
# Seconds for which nobody who needs no network is held up, on a machine that others use as well.
A_MOMENT = 0.5


@dataclass(frozen=True)
class Distant:
    """A database of a server behind a proxy, and how to make pools of it."""

    driver: str
    server: Any
    name: str
    proxy: TcpProxy

    def pool(self, **options: Any) -> Any:
        suffix = "?prefer_psycopg3=true" if self.driver == "psycopg3" else ""
        return peewee_web.connect(self.server.url(self.name, port=self.proxy.port) + suffix, **options)

    def sessions(self) -> int:
        return len(self.server.sessions(self.name))


@pytest.fixture(params=DRIVERS)
def distant(request: pytest.FixtureRequest) -> Iterator[Distant]:
    server = request.getfixturevalue("mariadb" if request.param == "pymysql" else "postgres")
    name = f"pool_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    with TcpProxy(server.host, server.port) as proxy:
        yield Distant(request.param, server, name, proxy)
    server.ensure_running()
    server.drop_database(name)


@contextmanager
def pooled(distant: Distant, **options: Any) -> Iterator[Any]:
    """A pool that is whole again, and closed, after the block."""
    database = distant.pool(**options)
    try:
        yield database
        assert database.pool_stats().in_use == 0
    finally:
        distant.proxy.cut()  # whatever is still under way ends now
        database.close_all()


def use(database: Any) -> None:
    """A request with one query."""
    with peewee_web.scope():
        query(database)


def fill(database: Any, count: int) -> None:
    """Have so many idle connections, each used once."""
    scopes = [peewee_web.scope() for _ in range(count)]
    for scope in scopes:
        with scope.activate():
            query(database)
    for scope in scopes:
        scope.end()
    assert database.pool_stats().idle == count


def seconds(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


# A healthy server.


def test_a_checkout_and_a_checkin_cost_no_round_trip(distant: Distant) -> None:
    with pooled(distant) as database:
        fill(database, 1)
        before = distant.proxy.bytes_forwarded
        for _ in range(100):
            database.connect()
            database.close()
        assert distant.proxy.bytes_forwarded == before


def test_what_was_idle_for_long_costs_one_round_trip(distant: Distant) -> None:
    with pooled(distant, probe_after=0.05) as database:
        fill(database, 1)
        until(lambda: not database.pool.is_fresh(database.pool.ledger.everything()[0][0], database.pool.clock()))
        use(database)
        stats = database.pool_stats()
        assert (stats.probes, stats.probe_failures, stats.created) == (1, 0, 1)


def test_the_server_has_as_many_sessions_as_the_pool_has_connections(distant: Distant) -> None:
    with pooled(distant, min_connections=3) as database:
        assert database.warm() == 3
        assert distant.sessions() == 3
        database.close_all()
        until(lambda: distant.sessions() == 0)


@pytest.mark.parametrize("how", ["open", "failed"])
def test_a_transaction_that_was_left_open_is_rolled_back_at_the_server(distant: Distant, how: str) -> None:
    with pooled(distant) as database:
        with database.connection_context():
            database.execute_sql("CREATE TABLE t (n INTEGER)")
        database.connect()
        connection = database.connection()
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO t VALUES (1)")
            if how == "failed":
                with pytest.raises(Exception, match="nowhere"):
                    cursor.execute("SELECT 1 FROM nowhere")
        database.close()
        with database.connection_context():
            assert database.connection() is connection
            assert database.execute_sql("SELECT n FROM t").fetchone() is None
        assert [session.state for session in distant.server.sessions(distant.name)] == ["idle"]


def test_discard_all_leaves_nothing_of_a_session(postgres: PostgresServer) -> None:
    database = peewee_web.connect(postgres.url(), reset="DISCARD ALL")
    with database.connection_context():
        (before,) = database.execute_sql("SHOW work_mem").fetchone()
        database.execute_sql("SET work_mem = '123kB'")
        connection = database.connection()
    with database.connection_context():
        assert database.connection() is connection
        assert database.execute_sql("SHOW work_mem").fetchone() == (before,)
    database.close_all()


def test_a_notification_on_an_idle_connection_is_no_reason_to_close_it(postgres: PostgresServer) -> None:
    database = peewee_web.connect(postgres.url())
    with database.connection_context():
        connection = database.connection()
        database.execute_sql("LISTEN news")
    (idle,), _ = database.pool.ledger.everything()
    postgres.execute("NOTIFY news")
    until(idle.has_news)
    with database.connection_context():
        assert database.connection() is connection
    stats = database.pool_stats()
    assert (stats.probes, stats.probe_failures, stats.created) == (1, 0, 1)
    database.close_all()


# A server that goes away.


@pytest.mark.parametrize("how", ["killed sessions", "restart", "crash", "cut links", "reset links"])
def test_what_is_gone_is_noticed_before_anybody_uses_it(distant: Distant, how: str) -> None:
    """D3: between requests, nobody sees an error."""
    with pooled(distant) as database:
        fill(database, 3)
        idle, _ = database.pool.ledger.everything()
        if how == "killed sessions":
            assert distant.server.kill_sessions(distant.name) == 3
        elif how == "restart":
            distant.server.restart()
        elif how == "crash":
            distant.server.kill()
            distant.server.start()
        elif how == "cut links":
            distant.proxy.cut()
        else:
            distant.proxy.reset()
        until(lambda: all(pooled.has_news() for pooled in idle))
        use(database)
        stats = database.pool_stats()
        assert (stats.probe_failures, stats.created, stats.idle, stats.generation) == (3, 4, 1, 1)


def test_one_that_broke_in_use_makes_the_others_be_probed(distant: Distant) -> None:
    with pooled(distant) as database:
        fill(database, 2)
        with peewee_web.scope():
            database.begin()  # else it would be replaced
            distant.server.kill_sessions(distant.name)
            with pytest.raises(DatabaseUnavailable):
                query(database)
            assert database.pool_stats().generation == 1
        use(database)
        stats = database.pool_stats()
        assert (stats.lost, stats.probe_failures) == (2, 1)


def test_a_server_that_is_down_is_told_at_once_with_its_error(distant: Distant) -> None:
    """Where nobody is to wait for it."""
    distant.proxy.refuse()
    with pooled(distant, timeout=None) as database:
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"no connection to the database: .*refused") as caught:
            use(database)
        assert time.monotonic() - begun < PATIENCE / 2
        assert isinstance(caught.value.__cause__, peewee.OperationalError)
        assert database.pool_stats().connect_errors == 1


def test_a_server_that_comes_back_serves_who_waits(distant: Distant) -> None:
    distant.proxy.refuse()
    with pooled(distant, timeout=PATIENCE) as database:
        waiting = [Working(contextvars.Context(), lambda: use(database)) for _ in range(5)]
        until(lambda: database.pool_stats().connect_errors >= 3)
        distant.proxy.forward()
        for thread in waiting:
            thread.result()


def test_new_callers_are_refused_at_once_when_it_lasts(distant: Distant) -> None:
    distant.proxy.refuse()
    with pooled(distant, timeout=0.5, fail_fast_after=0.3) as database:
        with pytest.raises(DatabaseUnavailable, match=r"opened in 0\.5 s: .*attempts failed"):
            use(database)
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="no connection to the database"):
            use(database)
        assert time.monotonic() - begun < A_MOMENT
        distant.proxy.forward()
        until(lambda: not isinstance(_outcome(database), DatabaseUnavailable))


def _outcome(database: Any) -> Any:
    try:
        return use(database)
    except DatabaseUnavailable as error:
        return error


@pytest.mark.parametrize("wrong", ["user", "database"])
def test_what_the_server_refuses_is_raised_at_once_and_as_itself(distant: Distant, wrong: str) -> None:
    if wrong == "user" and distant.driver == "pymysql":
        distant.server.execute("CREATE USER IF NOT EXISTS locked@'%' IDENTIFIED BY 'secret'")
    user = "locked" if wrong == "user" else distant.server.user
    name = "nowhere" if wrong == "database" else distant.name
    options = {"prefer_psycopg3": True} if distant.driver == "psycopg3" else {}
    database = peewee_web.connect(
        f"{distant.server.scheme}://{user}:wrong@{distant.server.host}:{distant.server.port}/{name}",
        timeout=PATIENCE,
        **options,
    )
    begun = time.monotonic()
    with pytest.raises(peewee.OperationalError) as caught:
        use(database)
    assert time.monotonic() - begun < PATIENCE / 2
    assert not isinstance(caught.value, NoConnection)
    assert "wrong" not in repr(database) + str(caught.value)
    assert database.pool_stats().size == 0


# A server that says nothing.


def test_a_black_hole_keeps_its_caller_no_longer_than_timeout(distant: Distant) -> None:
    """D1."""
    with pooled(distant, timeout=0.5) as database:
        distant.proxy.black_hole()
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"could be opened in 0\.. s"):
            use(database)
        assert 0.5 <= time.monotonic() - begun < 0.5 + A_MOMENT
        distant.proxy.cut()
        until(lambda: database.pool_stats().size == 0)


def test_others_do_not_notice_a_black_hole(distant: Distant) -> None:
    """D1: eight who wait for the black hole end together, and who has a connection goes on."""
    with pooled(distant, timeout=1) as database:
        fill(database, 1)
        mine = peewee_web.scope()
        with mine.activate():
            query(database)
        distant.proxy.black_hole()
        lost = [Working(contextvars.Context(), lambda: use(database)) for _ in range(8)]
        until(lambda: database.pool_stats().waiting == 8)
        begun = time.monotonic()
        with mine.activate():
            assert max(seconds(lambda: query(database)) for _ in range(50)) < A_MOMENT
        for thread in lost:
            with pytest.raises(DatabaseUnavailable):
                thread.result()
        assert time.monotonic() - begun < 1 + A_MOMENT
        assert seconds(mine.end) < A_MOMENT
        assert seconds(lambda: use(database)) < A_MOMENT
        assert database.pool_stats().timeouts == 8


@pytest.mark.parametrize("silent", ["link", "server"])
def test_the_probe_of_a_silent_connection_is_bounded(distant: Distant, silent: str) -> None:
    """D2. Where only the old link is silent there is time for a new connection."""
    with pooled(distant, timeout=1, probe_after=0) as database:
        fill(database, 2)
        if silent == "link":
            distant.proxy.freeze()
            assert seconds(lambda: use(database)) < 1
        else:
            distant.server.freeze()
            begun = time.monotonic()
            with pytest.raises(DatabaseUnavailable):
                use(database)
            assert time.monotonic() - begun < 1 + A_MOMENT
            distant.server.thaw()
        stats = database.pool_stats()
        assert (stats.probe_failures, stats.lost) == (1, 1)  # the other went with it, unasked


def test_others_do_not_notice_the_probe_of_a_silent_connection(distant: Distant) -> None:
    with pooled(distant, timeout=2) as database:
        fill(database, 2)
        mine = peewee_web.scope()
        with mine.activate():
            query(database)
        (idle,), _ = database.pool.ledger.everything()
        idle.generation -= 1
        distant.proxy.freeze()
        unlucky = Working(contextvars.Context(), lambda: use(database))
        until(lambda: database.pool_stats().in_use == 2)
        assert seconds(mine.end) < A_MOMENT
        assert seconds(lambda: (database.connect(), database.close())) < A_MOMENT
        distant.proxy.thaw()
        unlucky.result()


def test_the_roll_back_of_a_silent_connection_is_bounded(distant: Distant) -> None:
    with pooled(distant, timeout=1) as database:
        database.connect()
        database.begin()
        database.execute_sql("SELECT 1")
        distant.proxy.freeze()
        lease = database._state.find().lease
        assert seconds(lambda: database.pool.checkin(lease)) < 1 + A_MOMENT
        assert database.pool_stats().size == 0
        database.dispose()


def test_a_reset_of_a_silent_connection_is_bounded(distant: Distant) -> None:
    with pooled(distant, timeout=1, reset="SELECT 1") as database:
        with database.connection_context():
            query(database)
        database.connect()
        distant.proxy.freeze()
        assert seconds(database.close) < 1 + A_MOMENT
        assert database.pool_stats().size == 0


def test_the_end_of_a_silent_connection_keeps_nobody_waiting(distant: Distant) -> None:
    with pooled(distant) as database:
        fill(database, 3)
        distant.server.freeze()
        assert seconds(database.close_all) < 1
        distant.server.thaw()


def test_nobody_waits_for_the_rollback_of_what_a_dead_thread_left(distant: Distant) -> None:
    with pooled(distant, max_connections=2, timeout=3 * PATIENCE) as database:
        fill(database, 2)

        def begin() -> None:
            database.connect()
            database.begin()

        Working(contextvars.Context(), begin).result()  # and dies
        distant.proxy.freeze()
        Working(contextvars.Context(), lambda: database.connect() and database.close()).result()
        distant.proxy.cut()
        until(lambda: database.pool_stats().in_use == 0)
