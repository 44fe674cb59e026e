"""What a statement meets whose connection breaks: before it, under it, inside a transaction (D3, D4, T3)."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, DatabaseUnavailable, NoConnection
from peewee_web.core.errors import ConnectionLost
from peewee_web.core.retry import READS_ONCE
from tests.core.working import Served, Working, in_thread, in_use, query, save, saved
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until

SLOW = {"postgresql": "SELECT pg_sleep(2)", "mysql": "SELECT SLEEP(2)"}
SLOW_WRITE = {
    "postgresql": "INSERT INTO note SELECT 'slow' FROM pg_sleep(9)",
    "mysql": "INSERT INTO note SELECT IF(SLEEP(9) = 0, 'slow', 'slow')",
}


def kill(served: Served) -> None:
    """End all sessions of the database, and wait until they are gone."""
    served.server.kill_sessions(served.name)
    until(lambda: not served.server.sessions(served.name))


def killed_during(served: Served, work: Callable[[], Any]) -> Any:
    """What *work* returns or raises, whose statement's session is killed under it, once."""
    running = Working(None, work)
    until(lambda: any(session.state == "active" for session in served.server.sessions(served.name)))
    served.server.kill_sessions(served.name)
    return running.result()


@pytest.fixture(params=["in a scope", "in a thread"])
def place(request: pytest.FixtureRequest, served: Served) -> Iterator[None]:
    """Where the test's statements run: in a scope, or outside any."""
    if request.param == "in a scope":
        with peewee_web.scope():
            yield
    else:
        yield
        served.database.close()


# Between two statements.


@pytest.mark.usefixtures("place")
def test_what_was_killed_before_a_statement_is_replaced_for_it(served: Served) -> None:
    query(served.database)
    kill(served)
    save(served.database, "kept")
    kill(served)
    assert query(served.database) == 1
    assert in_use(served.database) == 1
    assert saved(served.database) == ["kept"]


@pytest.mark.usefixtures("place")
def test_a_transaction_begins_on_a_connection_that_is_alive(served: Served) -> None:
    query(served.database)
    kill(served)
    with served.database.atomic():
        save(served.database, "kept")
    assert saved(served.database) == ["kept"]


def test_an_explicit_connection_is_replaced_as_well(served: Served) -> None:
    served.database.autoconnect = False
    with served.database.connection_context():
        kill(served)
        assert query(served.database) == 1
        kill(served)
        assert served.database.connection() is not None
        assert query(served.database) == 1
    assert served.database.is_closed()
    served.database.autoconnect = True


def test_what_the_app_has_set_is_not_lost_in_silence(served: Served) -> None:
    setting = "SET search_path TO nowhere" if served.server.scheme == "postgresql" else "SET @mine = 1"
    with peewee_web.scope():
        served.database.execute_sql(setting)
        kill(served)
        with pytest.raises(ConnectionLost):
            query(served.database)
        assert query(served.database) == 1  # it has been told


def test_a_transaction_of_the_drivers_own_is_not_continued_elsewhere(served: Served) -> None:
    if served.server.scheme != "postgresql":
        pytest.skip("the same way")
    with peewee_web.scope():
        served.database.connection().autocommit = False
        save(served.database, "first")
        kill(served)
        with pytest.raises(ConnectionLost):
            query(served.database)
        save(served.database, "second")  # it has been told
    assert saved(served.database) == ["second"]


@pytest.mark.parametrize("reads", [True, False])
def test_a_connection_without_autocommit_is_not_replaced_in_silence(
    served: Served, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    def prepare(self: Any, connection: Any) -> None:
        connection.autocommit(False) if callable(connection.autocommit) else setattr(connection, "autocommit", False)

    monkeypatch.setattr(type(served.database), "_initialize_connection", prepare)
    with peewee_web.scope():
        query(served.database)
        kill(served)
        with pytest.raises(ConnectionLost):
            query(served.database) if reads else save(served.database)


def test_what_asks_for_something_in_the_session_is_not_asked_elsewhere(served: Served) -> None:
    asks = "SELECT lastval()" if served.server.scheme == "postgresql" else "SELECT LAST_INSERT_ID()"
    with peewee_web.scope():
        query(served.database)
        kill(served)
        with pytest.raises(ConnectionLost):
            served.database.execute_sql(asks)


def test_a_failed_statement_is_no_hindrance(served: Served) -> None:
    """After one PyMySQL can't tell whether a transaction is open."""
    with peewee_web.scope():
        with pytest.raises(peewee.DatabaseError):
            served.database.execute_sql("SELECT nothing FROM nowhere")
        kill(served)
        save(served.database, "kept")
    assert saved(served.database) == ["kept"]


def test_transactions_by_hand_go_on_after_a_loss(served: Served) -> None:
    database = served.database
    outcomes = []
    for lose in (True, False):
        with contextlib.suppress(ConnectionLost):
            database.begin()
            save(database, f"{lose}")
            if lose:
                kill(served)
            database.commit()
            outcomes.append("committed")
    for lose in (True, False):
        with contextlib.suppress(ConnectionLost), database.manual_commit():
            query(database)
            if lose:
                kill(served)
            save(database, "manual")
            outcomes.append("saved")
    database.close()
    assert outcomes == ["committed", "saved", "saved"]
    assert saved(database) == ["False", "manual", "manual"]


def test_two_threads_of_a_scope_look_at_their_connection_at_once(served: Served) -> None:
    with peewee_web.scope():
        query(served.database)

        def look() -> int:
            return sum(served.database.connection() is not None for _ in range(20_000))

        threads = [Working(None, look) for _ in range(3)]
        assert [thread.result() for thread in threads] == [20_000] * 3


def test_an_explicit_connection_that_can_not_be_replaced_yet_is_later(served: Served) -> None:
    with TcpProxy(served.server.host, served.server.port) as proxy:
        url = served.server.url(served.name).replace(f":{served.server.port}/", f":{proxy.port}/")
        suffix = "?prefer_psycopg3=true" if served.driver == "psycopg3" else ""
        database = peewee_web.connect(url + suffix, timeout=None, autoconnect=False)
        with database.connection_context():
            query(database)
            proxy.refuse()
            proxy.cut()
            with pytest.raises(DatabaseUnavailable):
                query(database)
            proxy.forward()
            until(lambda: _works(database))
        database.close_all()


def _works(database: Any) -> bool:
    try:
        return query(database) == 1
    except DatabaseUnavailable:
        return False


def test_an_atomic_scope_whose_begin_is_lost_fails_and_leaves_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, killed = served.database, []

    def prepare(self: Any, connection: Any) -> None:
        if not killed:
            killed.append(1)
            kill(served)

    monkeypatch.setattr(type(database), "_initialize_connection", prepare)
    with Databases(database, atomic=True).scope():
        query(database)  # nothing was done on the first connection, and a read may be run again
        assert database.transaction_depth() == 1
        save(database, "kept")
    monkeypatch.undo()
    assert saved(database) == ["kept"]


def test_what_is_set_on_each_connection_is_no_hindrance(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    database = served.database
    monkeypatch.setattr(
        type(database),
        "_initialize_connection",
        lambda self, _: (
            self.execute_sql("SET time_zone = '+1:00'")
            if served.server.scheme == "mysql"
            else self.execute_sql("SET search_path TO public")
        ),
    )
    with peewee_web.scope():
        query(database)
        kill(served)
        assert query(database) == 1


def test_eight_requests_after_a_restart_do_not_fail(served: Served) -> None:
    """D3: whether their connections were idle, in a scope, or opened by a thread's query."""
    database = served.database
    scopes = [peewee_web.scope(), peewee_web.scope()]
    for scope in scopes:
        with scope.activate():
            query(database)
    query(database)  # the thread's own
    with peewee_web.scope():
        query(database)  # idle, after this
    kill(served)
    for scope in scopes:
        with scope.activate():
            assert query(database) == 1
        scope.end()
    assert query(database) == 1
    for _ in range(5):
        with peewee_web.scope():
            assert query(database) == 1
    database.close()


def test_a_half_read_result_is_no_sign_of_a_loss(served: Served) -> None:
    if served.driver != "pymysql":
        pytest.skip("psycopg reads a whole result at once")
    import pymysql.cursors

    with peewee_web.scope():
        rows = served.database.connection().cursor(pymysql.cursors.SSCursor)
        rows.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3")
        assert rows.fetchone() == (1,)
        lease = served.database._state.find().lease
        served.database.ensure_open()
        assert served.database._state.find().lease is lease
        assert rows.fetchall() == [(2,), (3,)]
        rows.close()


def test_a_notification_is_no_sign_of_a_loss(served: Served) -> None:
    if served.server.scheme != "postgresql":
        pytest.skip("there are none")
    with peewee_web.scope():
        number = served.database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
        served.database.connection().cursor().execute("LISTEN news")  # past what we see
        served.server.execute("NOTIFY news", database=served.name)
        until(served.database._state.find().lease.pooled.has_news)
        assert served.database.execute_sql("SELECT pg_backend_pid()").fetchone()[0] == number


# Under a statement.


@pytest.fixture
def never_too_late(served: Served) -> None:
    """To be killed in time, a statement has to be found in the server's list, which takes what it takes."""
    served.database.statement_retry = dataclasses.replace(READS_ONCE, longest=60)


@pytest.mark.usefixtures("never_too_late")
def test_a_read_is_run_again(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    def read() -> Any:
        with peewee_web.scope():
            return served.database.execute_sql(SLOW[served.server.scheme]).fetchone()

    assert killed_during(served, read) is not None
    assert "a statement is run again: the connection to the database was lost: " in caplog.text
    assert served.database.pool_stats().lost >= 1


@pytest.mark.usefixtures("never_too_late")
def test_a_read_is_not_run_again_for_ever(served: Served) -> None:
    killed: set[int] = set()

    def read() -> None:
        with peewee_web.scope():
            served.database.execute_sql(SLOW[served.server.scheme].replace("2", "9"))

    def another_is_at_it() -> bool:
        active = {session.pid for session in served.server.sessions(served.name) if session.state == "active"}
        return bool(active - killed) and not killed.update(active)

    reading = Working(None, read)
    for _ in range(2):
        until(another_is_at_it)
        served.server.kill_sessions(served.name)
    with pytest.raises(ConnectionLost):
        reading.result()


def test_a_read_that_has_taken_long_is_not_run_again(served: Served) -> None:
    """A time limit may have ended its connection: PgBouncer's, a driver's."""

    def read() -> None:
        with peewee_web.scope():
            served.database.execute_sql(SLOW[served.server.scheme].replace("2", "9"))

    reading = Working(None, read)
    until(lambda: any(session.state == "active" for session in served.server.sessions(served.name)))
    time.sleep(1.1)  # what is measured
    served.server.kill_sessions(served.name)
    with pytest.raises(ConnectionLost):
        reading.result()


def test_what_a_read_has_waited_for_its_connection_does_not_count(served: Served) -> None:
    served.database.statement_retry = dataclasses.replace(READS_ONCE, longest=2)
    lent = [served.database.pool.checkout() for _ in range(4)]

    def read() -> Any:
        with peewee_web.scope():
            return served.database.execute_sql(SLOW[served.server.scheme].replace("2", "1")).fetchone()

    reading = Working(None, read)
    until(lambda: served.database.pool_stats().waiting == 1)
    time.sleep(2.1)  # what is not to count
    served.database.pool.checkin(lent.pop())
    until(lambda: any(session.state == "active" for session in served.server.sessions(served.name)))
    served.server.kill_sessions(served.name)
    assert reading.result() is not None
    for lease in lent:
        served.database.pool.checkin(lease)


def test_the_option_may_be_changed_later(served: Served) -> None:
    database = peewee_web.PooledPostgresqlDatabase("x", retry_reads=False)
    assert database.statement_retry.max_retries == 0
    database.init("y", retry_reads=True)
    assert database.statement_retry == READS_ONCE


def test_a_write_is_not_run_again_and_what_comes_after_it_goes_on(served: Served) -> None:
    outcome: list[str] = []

    def write() -> None:
        with peewee_web.scope():
            try:
                served.database.execute_sql(SLOW_WRITE[served.server.scheme])
            except DatabaseUnavailable as error:
                outcome.extend((str(error), type(error.__cause__).__name__))
            save(served.database, "after")

    killed_during(served, write)
    assert "Error" in outcome[1] or "Shutdown" in outcome[1]
    assert outcome[0].startswith("the connection to the database was lost: ")
    assert saved(served.database) == ["after"]


def test_a_read_is_not_run_again_where_the_database_says_so(served: Served) -> None:
    served.database.statement_retry = peewee_web.connect(
        served.server.url(served.name), retry_reads=False
    ).statement_retry

    def read() -> None:
        with peewee_web.scope():
            served.database.execute_sql(SLOW[served.server.scheme])

    with pytest.raises(ConnectionLost):
        killed_during(served, read)
    served.database.statement_retry = READS_ONCE


def test_the_option_may_stand_in_the_url() -> None:
    assert peewee_web.connect("postgresql://me@here/x?retry_reads=false").statement_retry.max_retries == 0
    assert peewee_web.connect("postgresql://me@here/x?retry_reads=true").statement_retry == READS_ONCE
    assert peewee_web.connect("postgresql://me@here/x").statement_retry == READS_ONCE


def test_a_read_goes_on_when_the_server_is_back(served: Served) -> None:
    with TcpProxy(served.server.host, served.server.port) as proxy:
        url = served.server.url(served.name).replace(f":{served.server.port}/", f":{proxy.port}/")
        suffix = "?prefer_psycopg3=true" if served.driver == "psycopg3" else ""
        database = peewee_web.connect(url + suffix, max_connections=2)
        with peewee_web.scope():
            query(database)
            proxy.refuse()
            proxy.cut()
            reading = Working(None, lambda: query(database))
            until(lambda: database.pool_stats().connect_errors >= 2)
            proxy.forward()
            assert reading.result() == 1
        database.close_all()


# Inside a transaction.


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.usefixtures("place")
def test_the_first_error_surfaces(served: Served, nested: bool) -> None:
    """T3: not that of the rollback, and not that of a statement after it."""
    database = served.database

    def work() -> None:
        with database.atomic(), database.atomic() if nested else contextlib.nullcontext():
            save(database, "lost")
            kill(served)
            save(database, "lost as well")

    with pytest.raises(ConnectionLost) as caught:
        work()
    assert caught.value.__cause__ is not None
    assert not isinstance(caught.value.__cause__, NoConnection)
    assert query(database) == 1
    assert in_use(database) == 1
    assert saved(database) == []


@pytest.mark.usefixtures("place")
def test_what_comes_in_a_transaction_after_the_loss_fails_as_well(served: Served) -> None:
    database = served.database

    def work() -> None:
        with database.atomic():
            save(database, "lost")
            kill(served)
            with contextlib.suppress(ConnectionLost):
                query(database)
            save(database, "no half")  # on another connection it would be one

    with pytest.raises(ConnectionLost):
        work()
    assert saved(database) == []


@pytest.mark.usefixtures("place")
def test_a_manual_transaction_is_not_continued_elsewhere(served: Served) -> None:
    database = served.database
    database.begin()
    save(database, "lost")
    kill(served)
    for _ in range(2):
        with pytest.raises(ConnectionLost):
            save(database, "lost")
    with pytest.raises(ConnectionLost):
        database.commit()
    database.rollback()
    save(database, "kept")
    assert saved(database) == ["kept"]


def test_a_commit_whose_answer_is_lost_is_told_as_a_lost_connection(served: Served) -> None:
    with TcpProxy(served.server.host, served.server.port) as proxy:
        url = served.server.url(served.name).replace(f":{served.server.port}/", f":{proxy.port}/")
        suffix = "?prefer_psycopg3=true" if served.driver == "psycopg3" else ""
        database = peewee_web.connect(url + suffix, max_connections=2)

        def write() -> None:
            with peewee_web.scope(), database.atomic():
                save(database, "who knows")
                proxy.cut()

        with pytest.raises(ConnectionLost):
            in_thread(write)
        assert in_use(database) == 0
        database.close_all()


def test_hooks_after_the_commit_run_once(served: Served) -> None:
    database = served.database
    ran: list[str] = []
    for lose in (True, False):
        with contextlib.suppress(ConnectionLost), peewee_web.scope(), database.atomic():
            database.after_commit(lambda lose=lose: ran.append(f"after {lose}"))
            save(database)
            if lose:
                kill(served)
            query(database)
    assert ran == ["after False"]
