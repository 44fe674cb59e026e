"""Functions and statements that are run again: after what, how often, and what never is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, PoolTimeout, RetryOperationalError, ScopeClosed
from peewee_web.core import backoff
from peewee_web.core.databases import PooledDatabase
from peewee_web.core.errors import ConnectionLost, ScopeError
from peewee_web.core.faults import is_conflict
from tests.core.working import PATIENCE, Served, Working, query, save, saved
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No test waits; what it would have waited for, at most, is here."""
    waited: list[float] = []
    monkeypatch.setattr(backoff.random, "uniform", lambda _, longest: waited.append(longest) or 0.0)
    return waited


def lost() -> ConnectionLost:
    return ConnectionLost("the connection to the database was lost: gone")


class Flaky:
    """Fails so many times, and then returns how often it was called."""

    def __init__(self, failures: int, error: Callable[[], Exception] = lost, work: Callable[[], Any] = int) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error
        self._work = work
        self.__qualname__ = "flaky"

    def __call__(self) -> int:
        self.calls += 1
        self._work()
        if self.calls <= self._failures:
            raise self._error()
        return self.calls


def locked() -> Exception:
    """Peewee's "database is locked", from a SQLite that said so."""
    with contextlib.closing(sqlite3.connect("file:x?mode=memory&cache=shared", uri=True, timeout=0)) as one:
        one.executescript("CREATE TABLE t (x); BEGIN; INSERT INTO t VALUES (1)")
        with contextlib.closing(sqlite3.connect("file:x?mode=memory&cache=shared", uri=True, timeout=0)) as other:
            try:
                other.execute("INSERT INTO t VALUES (2)")
            except sqlite3.OperationalError as error:
                translated = peewee.OperationalError(*error.args)
                translated.__cause__ = error
                return translated
    raise AssertionError("it was not locked")


# How often, and how long between.


@pytest.mark.parametrize("error", [lost, locked])
def test_a_function_is_run_again_until_it_succeeds(error: Callable[[], Exception]) -> None:
    flaky = Flaky(2, error)
    assert peewee_web.retry(flaky)() == 3


def test_it_is_run_again_max_retries_times_and_then_fails_with_the_last_error() -> None:
    flaky = Flaky(9)
    with pytest.raises(ConnectionLost):
        peewee_web.retry(max_retries=2)(flaky)()
    assert flaky.calls == 3


def test_without_retries_it_is_run_once() -> None:
    flaky = Flaky(1)
    with pytest.raises(ConnectionLost):
        peewee_web.retry(max_retries=0)(flaky)()
    assert flaky.calls == 1


def test_the_pauses_double_up_to_half_a_minute(pauses: list[float]) -> None:
    peewee_web.retry(max_retries=7, backoff=1)(Flaky(7))()
    assert pauses == [1, 2, 4, 8, 16, 30, 30]


def test_each_retry_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []
    with caplog.at_level(logging.WARNING, logger="peewee_web"):
        peewee_web.retry(on_retry=lambda *args: told.append(args))(Flaky(2))()
    assert [(type(error), number, seconds) for error, number, seconds in told] == [
        (ConnectionLost, 1, 0.0),
        (ConnectionLost, 2, 0.0),
    ]
    assert [record.getMessage() for record in caplog.records] == [
        f"run again in 0.00 s (retry {number} of 3): the connection to the database was lost: gone" for number in (1, 2)
    ]


@pytest.mark.parametrize(
    "error",
    [
        lambda: ValueError("the app's own"),
        lambda: peewee.IntegrityError("twice"),
        lambda: peewee.OperationalError("no such table: note"),
        lambda: PoolTimeout("nothing is free"),  # the pool has waited already
        ScopeClosed,
    ],
)
def test_what_would_only_fail_again_is_not_run_again(error: Callable[[], Exception]) -> None:
    flaky = Flaky(1, error)
    with pytest.raises(type(error())):
        peewee_web.retry(flaky)()
    assert flaky.calls == 1


def test_a_coroutine_function_is_run_again() -> None:
    flaky = Flaky(2)

    @peewee_web.retry
    async def work(one: int, *, other: int) -> tuple[int, int, int]:
        await asyncio.sleep(0)
        return flaky(), one, other

    assert asyncio.run(work(1, other=2)) == (3, 1, 2)
    assert work.__name__ == "work"


def test_an_object_that_is_called_like_a_coroutine_function_is_run_again() -> None:
    class Job:
        flaky = Flaky(1)

        async def __call__(self) -> int:
            return self.flaky()

    assert asyncio.run(peewee_web.retry(Job())()) == 2


def test_a_coroutine_is_cancelled_in_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.random, "uniform", lambda _, longest: 60.0)
    flaky = Flaky(9)

    @peewee_web.retry
    async def work() -> None:
        flaky()

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(work(), 0.05)

    asyncio.run(main())
    assert flaky.calls == 1


def generator() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("thing", [generator, 3, "x"])
def test_only_functions_can_be_run_again(thing: Any) -> None:
    with pytest.raises(TypeError):
        peewee_web.retry(thing)


@pytest.mark.parametrize("options", [{"max_retries": -1}, {"backoff": -1}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, Any], database: PooledSqliteDatabase) -> None:
    with pytest.raises(ValueError, match="negative"):
        peewee_web.retry(**options)(query)
    with pytest.raises(ValueError, match="negative"), database.retry_db_errors(**options):
        pass


# What must not be run twice.


def test_what_has_written_is_not_run_again(database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(1, work=lambda: save(database))
    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(flaky)()
    assert saved(database) == ["x"]
    assert "not run again after 'INSERT INTO', which may have been carried out" in caplog.text


def test_what_has_committed_is_not_run_again(database: PooledSqliteDatabase) -> None:
    def work() -> None:
        with database.atomic():
            save(database)

    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(Flaky(1, work=work))()
    assert saved(database) == ["x"]


def test_unless_it_may_run_twice(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        assert database.retry(retry_writes=True)(Flaky(1, work=lambda: save(database)))() == 2
    assert saved(database) == ["x", "x"]


def test_what_was_committed_within_a_block_is_not_run_again(database: PooledSqliteDatabase) -> None:
    def work() -> None:
        with database.manual_commit():
            database.begin()
            save(database, "committed")
            database.commit()
            save(database, "outside")

    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(Flaky(1, work=work))()
    assert saved(database) == ["committed", "outside"]


def test_what_is_written_between_two_transactions_of_a_block_is_not_run_again(database: PooledSqliteDatabase) -> None:
    def work() -> None:
        with database.atomic() as transaction:
            transaction.commit(begin=False)
            save(database, "in autocommit")
            database.begin()

    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(Flaky(1, work=work))()
    assert saved(database) == ["in autocommit"]


def test_what_mysql_has_committed_by_itself_is_not_run_again(mariadb: Any) -> None:
    name = "retry_implicit"
    mariadb.create_database(name)
    database = peewee_web.connect(mariadb.url(name))

    @database.retry(backoff=0)
    def work() -> None:
        with database.atomic():
            database.execute_sql("CREATE TABLE note (text VARCHAR(9))")
            raise lost()

    with peewee_web.scope(), pytest.raises(ConnectionLost):
        work()
    database.close_all()
    mariadb.drop_database(name)


def test_what_a_procedure_has_done_before_a_conflict_is_not_done_again(mariadb: Any) -> None:
    name = "retry_procedure"
    mariadb.create_database(name)
    database = peewee_web.connect(mariadb.url(name), init_command="SET innodb_lock_wait_timeout = 1")
    with peewee_web.scope():
        database.execute_sql("CREATE TABLE note (text VARCHAR(9) PRIMARY KEY)")
        database.execute_sql("CREATE TABLE log (text VARCHAR(9))")
        save(database, "a")
        database.execute_sql("CREATE PROCEDURE p() BEGIN INSERT INTO log VALUES ('x'); UPDATE note SET text = 'b'; END")
    with peewee_web.scope():
        database.begin()
        database.execute_sql("UPDATE note SET text = 'a'")
        with peewee_web.scope(), database.retry_db_errors(), pytest.raises(peewee.OperationalError, match="1205"):
            database.execute_sql("CALL p()")
        with peewee_web.scope(), pytest.raises(peewee.OperationalError, match="1205"):
            database.retry(lambda: database.execute_sql("CALL p()"))()
        database.rollback()
        assert database.execute_sql("SELECT count(*) FROM log").fetchone() == (2,)
    database.close_all()
    mariadb.drop_database(name)


def test_what_was_done_past_us_is_not_done_again(database: PooledSqliteDatabase) -> None:
    def work() -> None:
        database.cursor().executemany("INSERT INTO note VALUES (?)", [("past us",)])

    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(Flaky(1, work=work))()
    assert saved(database) == ["past us"]


def test_a_cursor_that_another_thread_takes_amid_a_statement_is_noticed(database: PooledSqliteDatabase) -> None:
    def take(event: Any) -> None:
        database.query_hooks.clear()
        Working(None, database.cursor).result()

    with peewee_web.scope():
        query(database)
        lease = database._state.find().lease
        assert lease is not None
        database.query_hooks.append(take)  # called within the statement
        query(database)
        assert lease.has_state


def test_a_transaction_begun_in_sql_is_not_run_again(database: PooledSqliteDatabase) -> None:
    def work() -> None:
        database.execute_sql("BEGIN")
        save(database)
        database.execute_sql("COMMIT")

    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(Flaky(1, work=work))()
    assert saved(database) == ["x"]


def test_a_hook_after_a_commit_is_not_run_again(database: PooledSqliteDatabase) -> None:
    mails: list[str] = []

    def work() -> None:
        with database.atomic():
            query(database)
            database.after_commit(lambda: mails.append("mail"))

    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(Flaky(1, work=work))()
    assert mails == ["mail"]


def test_a_function_that_leaves_a_transaction_open_fails_with_its_own_error(database: PooledSqliteDatabase) -> None:
    flaky = Flaky(1, work=database.begin)
    with peewee_web.scope(), pytest.raises(ConnectionLost):
        database.retry(flaky)()
    assert flaky.calls == 1


def test_a_function_on_an_event_loop_does_not_stop_it_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.random, "uniform", lambda _, longest: 30.0)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)

    async def main() -> None:
        peewee_web.retry(Flaky(1))()

    asyncio.run(main())
    assert slept == [1.0]


def test_what_was_rolled_back_is_run_again(database: PooledSqliteDatabase) -> None:
    calls = []

    @database.retry
    def work() -> None:
        with database.atomic():
            save(database)
            calls.append(1)
            if len(calls) == 1:
                raise lost()

    with peewee_web.scope():
        work()
    assert (len(calls), saved(database)) == (2, ["x"])


def test_what_only_read_in_its_transactions_is_run_again(database: PooledSqliteDatabase) -> None:
    def work() -> None:
        with database.atomic(), database.atomic():
            query(database)
        query(database)

    with peewee_web.scope():
        assert database.retry(Flaky(1, work=work))() == 2


def test_what_was_written_in_a_function_within_counts_for_the_outer_one(database: PooledSqliteDatabase) -> None:
    inner = database.retry(lambda: save(database))
    with pytest.raises(ConnectionLost), peewee_web.scope():
        database.retry(Flaky(1, work=inner))()
    assert saved(database) == ["x"]


def test_what_was_written_in_another_thread_of_the_function_counts(database: PooledSqliteDatabase) -> None:
    async def work() -> None:
        await asyncio.to_thread(save, database)
        raise lost()

    async def main() -> None:
        async with peewee_web.scope():
            await database.retry(work)()

    with pytest.raises(ConnectionLost):
        asyncio.run(main())
    assert saved(database) == ["x"]


def test_what_was_written_before_does_not_count(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        save(database)
        assert database.retry(Flaky(1))() == 2


# Inside a transaction.


@pytest.mark.parametrize("decorator", ["the database's", "the package's"])
@pytest.mark.parametrize("transaction", ["atomic", "manual", "request's"])
def test_inside_an_outer_transaction_it_is_refused(
    database: PooledSqliteDatabase, decorator: str, transaction: str
) -> None:
    retry = database.retry if decorator == "the database's" else peewee_web.retry
    function = retry(Flaky(0, work=lambda: query(database)))

    def run() -> None:
        with pytest.raises(ScopeError, match="began outside the function"):
            function()

    if transaction == "request's":
        with Databases(database, atomic=True).scope():
            query(database)
            run()
        return
    with peewee_web.scope():
        if transaction == "atomic":
            with database.atomic():
                run()
        else:
            database.begin()
            run()
            database.rollback()


def test_the_transaction_of_another_database_is_noticed_as_well(database: PooledSqliteDatabase, tmp_path: Path) -> None:
    other = PooledSqliteDatabase(str(tmp_path / "other.db"))
    function = database.retry(Flaky(0, work=lambda: query(other)))
    with peewee_web.scope(), other.atomic(), pytest.raises(ScopeError, match="began outside the function"):
        function()
    other.close_all()


def test_a_transaction_outside_any_scope_is_noticed_as_well(database: PooledSqliteDatabase) -> None:
    function = peewee_web.retry(Flaky(0, work=lambda: query(database)))
    with database.atomic(), pytest.raises(ScopeError, match="began outside the function"):
        function()
    database.close()


def test_a_retry_within_the_transaction_of_one_is_refused(database: PooledSqliteDatabase) -> None:
    inner = database.retry(lambda: query(database))

    @database.retry
    def outer() -> None:
        with database.atomic():
            inner()

    with peewee_web.scope(), pytest.raises(ScopeError, match="Decorate what begins it"):
        outer()


def test_a_transaction_that_began_while_its_statement_waited_for_its_turn_is_noticed(
    database: PooledSqliteDatabase,
) -> None:
    ready = threading.Event()

    @peewee_web.retry
    def function() -> None:
        ready.set()
        query(database)

    with peewee_web.scope():
        query(database)
        with database._state.find():  # as another statement of the scope has it
            waiting = Working(None, function)
            assert ready.wait(PATIENCE)
            until(lambda: waiting.is_in("_await_turn"))
            database.begin()
        with pytest.raises(ScopeError, match="began outside the function"):
            waiting.result()
        database.rollback()


# On real servers.


def test_a_transaction_is_run_again_on_a_fresh_connection(served: Served) -> None:
    database, runs = served.database, []

    @database.retry(backoff=0)
    def work() -> None:
        with database.atomic():
            save(database, f"run {len(runs)}")
            runs.append(1)
            if len(runs) == 1:
                served.server.kill_sessions(served.name)
            save(database, "more")

    with peewee_web.scope():
        work()
    assert len(runs) == 2
    assert saved(database) == ["more", "run 1"]


@pytest.mark.parametrize("arrives", [True, False])
def test_a_commit_of_unknown_outcome_is_not_run_again(served: Served, arrives: bool) -> None:
    """No acknowledged write is lost, none is doubled."""
    rows = ["once at most"] if arrives else []
    about_to_commit = threading.Event()

    def save_and_disturb() -> None:
        with database.atomic():
            save(database, "once at most")
            if arrives:
                proxy.delay(1.0)
            else:
                proxy.freeze()
            about_to_commit.set()

    def run() -> None:
        with peewee_web.scope():
            database.retry(save_and_disturb)()

    with TcpProxy(served.server.host, served.server.port) as proxy:
        url = served.server.url(served.name).replace(f":{served.server.port}/", f":{proxy.port}/")
        database = peewee_web.connect(url + ("?prefer_psycopg3=true" if served.driver == "psycopg3" else ""))
        running = Working(None, run)
        assert about_to_commit.wait(PATIENCE)
        until(lambda: saved(served.database) == rows)
        proxy.cut()  # before the answer is back
        proxy.delay(0)
        with pytest.raises(ConnectionLost):
            running.result()
        assert saved(served.database) == rows
        database.close_all()


def test_a_deadlock_is_run_again(served: Served) -> None:
    database = served.database
    with peewee_web.scope():
        for text in ("a", "b"):
            save(database, text)
    ready = {"a": False, "b": False}
    runs: list[str] = []

    def change(first: str, second: str) -> None:
        @database.retry(backoff=0)
        def work() -> None:
            runs.append(first)
            with database.atomic():
                database.execute_sql(f"UPDATE note SET text = text WHERE text = '{first}'")
                ready[first] = True
                until(lambda: all(ready.values()))
                database.execute_sql(f"UPDATE note SET text = text WHERE text = '{second}'")

        with peewee_web.scope():
            work()

    if served.server.scheme == "mysql":  # by its index, a row is locked and not the table
        served.server.execute("ALTER TABLE note ADD PRIMARY KEY (text)", database=served.name)
    one, other = Working(None, lambda: change("a", "b")), Working(None, lambda: change("b", "a"))
    one.result()
    other.result()
    assert len(runs) >= 3


@pytest.mark.parametrize("served", ["psycopg3", "psycopg2"], indirect=True)
def test_a_serialization_failure_is_run_again(served: Served) -> None:
    database, runs = served.database, []
    save(database, "0")
    database.close()

    def increment() -> None:
        value = database.execute_sql("SELECT text FROM note").fetchone()[0]
        if not runs:
            served.server.execute("UPDATE note SET text = '7'", database=served.name)
        runs.append(1)
        database.execute_sql("UPDATE note SET text = %s", (str(int(value) + 1),))

    @database.retry(backoff=0)
    def work() -> None:
        with database.atomic(isolation_level="SERIALIZABLE"):
            increment()

    with peewee_web.scope():
        work()
    assert (len(runs), saved(database)) == (2, ["8"])


def test_a_lock_that_was_waited_for_in_vain_is_tried_again(mariadb: Any) -> None:
    name = "retry_lock_wait"
    mariadb.create_database(name)
    database = peewee_web.connect(mariadb.url(name), init_command="SET innodb_lock_wait_timeout = 1")
    with peewee_web.scope():
        database.execute_sql("CREATE TABLE note (text VARCHAR(9) PRIMARY KEY)")
        save(database, "a")
    holder = peewee_web.scope()
    with holder.activate():
        database.begin()
        database.execute_sql("UPDATE note SET text = 'a'")
    with peewee_web.scope(), database.retry_db_errors(max_retries=1):
        told: list[Any] = []
        holding = [holder]

        @database.retry(backoff=0, on_retry=lambda *args: (told.append(args), holding.pop().end()))
        def work() -> None:
            with database.atomic():
                database.execute_sql("UPDATE note SET text = 'b'")

        work()
    assert is_conflict(told[0][0])
    assert saved(database) == ["b"]
    database.close_all()
    mariadb.drop_database(name)


# Single statements.


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    database = PooledSqliteDatabase(str(tmp_path / "busy.db"), pragmas={"busy_timeout": 0}, timeout=None)
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text TEXT)")
    yield database
    database.close_all()


class Lock:
    """Another process's lock on the file, let go when something is tried for the second time."""

    def __init__(self, database: PooledSqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
        self._connection = sqlite3.connect(database.database, isolation_level=None)
        self._connection.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(backoff.random, "uniform", self._let_go)

    def _let_go(self, least: float, longest: float) -> float:
        self._connection.close()
        return 0.0


@pytest.mark.parametrize("way", ["block", "mixin"])
def test_a_statement_that_found_the_database_locked_is_run_again(
    impatient: PooledSqliteDatabase, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    class Retrying(RetryOperationalError, PooledSqliteDatabase):
        pass

    if way == "mixin":
        impatient.close_all()
        impatient = Retrying(impatient.database, pragmas={"busy_timeout": 0})
    with peewee_web.scope(), impatient.retry_db_errors() if way == "block" else contextlib.nullcontext():
        query(impatient)
        Lock(impatient, monkeypatch)
        save(impatient)
    assert saved(impatient) == ["x"]
    impatient.close_all()


def test_a_statement_is_not_run_again_without_being_asked_for(
    impatient: PooledSqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock(impatient, monkeypatch)
    with peewee_web.scope(), pytest.raises(peewee.OperationalError, match="locked"):
        save(impatient)
    lock._let_go(0, 0)


def test_a_statement_is_not_run_again_inside_a_transaction(
    impatient: PooledSqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        with peewee_web.scope(), impatient.retry_db_errors(), impatient.atomic(lock_type="DEFERRED"):
            save(impatient)

    lock = Lock(impatient, monkeypatch)
    with pytest.raises(peewee.OperationalError, match="locked"):
        work()
    lock._let_go(0, 0)


def test_the_block_is_for_one_database_and_the_inner_one_counts(
    impatient: PooledSqliteDatabase, monkeypatch: pytest.MonkeyPatch, database: PooledSqliteDatabase
) -> None:
    def fails_at_once() -> None:
        with pytest.raises(peewee.OperationalError, match="locked"):
            save(impatient)

    lock = Lock(impatient, monkeypatch)
    with peewee_web.scope():
        with database.retry_db_errors():
            fails_at_once()
        with impatient.retry_db_errors(), impatient.retry_db_errors(max_retries=0):
            fails_at_once()
        fails_at_once()
    lock._let_go(0, 0)


def test_a_statement_that_got_no_connection_is_run_again(impatient: PooledSqliteDatabase) -> None:
    impatient.pool.configure(impatient.pool.options.but(max_connections=1, timeout=None))
    holder = peewee_web.scope()
    with holder.activate():
        query(impatient)

    def let_go(*_: float) -> float:
        holder.end()
        return 0.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backoff.random, "uniform", let_go)
        with peewee_web.scope(), impatient.retry_db_errors():
            assert query(impatient) == 1


@pytest.mark.parametrize("may", [True, False])
def test_a_write_whose_outcome_is_unknown_is_run_again_only_on_request(served: Served, may: bool) -> None:
    database = served.database
    statement = {
        "postgresql": "INSERT INTO note SELECT 'slow' FROM pg_sleep({})",
        "mysql": "INSERT INTO note SELECT IF(SLEEP({}) = 0, 'slow', 'slow')",
    }[served.server.scheme].format(2 if may else 9)

    def write() -> str:
        with peewee_web.scope(), database.retry_db_errors(retry_writes=may):
            try:
                database.execute_sql(statement)
            except ConnectionLost:
                return "lost"
            return "written"

    writing = Working(None, write)
    until(lambda: any(session.state == "active" for session in served.server.sessions(served.name)))
    served.server.kill_sessions(served.name)
    assert writing.result() == ("written" if may else "lost")
    assert saved(database) == (["slow"] if may else [])


def test_a_statement_of_a_transaction_begun_in_sql_is_not_run_again(
    impatient: PooledSqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = Lock(impatient, monkeypatch)
    with peewee_web.scope(), impatient.retry_db_errors():
        impatient.execute_sql("BEGIN DEFERRED")
        with pytest.raises(peewee.OperationalError, match="locked"):
            save(impatient)
    lock._let_go(0, 0)


# Query hooks.


def test_a_query_hook_that_fails_does_not_make_a_write_run_again(database: PooledSqliteDatabase) -> None:
    def hook(event: Any) -> None:
        raise PoolTimeout("the audit's own database")

    database.query_hooks.append(hook)
    with peewee_web.scope(), database.retry_db_errors(), pytest.raises(PoolTimeout, match="audit"):
        save(database)
    with peewee_web.scope(), pytest.raises(PoolTimeout, match="audit"):
        database.retry(lambda: save(database, "y"))()
    database.query_hooks.clear()
    assert saved(database) == ["x", "y"]


def test_a_query_hook_that_fails_does_not_hide_why_a_statement_failed(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(event: Any) -> None:
        raise ConnectionRefusedError("statsd")

    database.query_hooks.append(hook)
    with peewee_web.scope(), pytest.raises(peewee.OperationalError, match="no such table"):
        database.execute_sql("SELECT * FROM nowhere")
    database.query_hooks.clear()
    assert "a query hook failed" in caplog.text


def test_the_mixin_is_a_pool_over_any_database_of_peewees() -> None:
    class Plain(RetryOperationalError, peewee.SqliteDatabase):
        pass

    assert issubclass(Plain, PooledDatabase)
    assert Plain(":memory:", max_connections=3).pool.options.max_connections == 3


# What is a conflict.


class Numbered(Exception):
    """A driver's error with a number."""


@pytest.mark.parametrize(
    ("module", "attributes", "conflict"),
    [
        ("psycopg.errors", {"sqlstate": "40001"}, True),
        ("psycopg.errors", {"sqlstate": "40P01"}, True),
        ("psycopg2.errors", {"pgcode": "40P01"}, True),
        ("psycopg2.errors", {"pgcode": "55P03"}, False),
        ("psycopg2.errors", {"pgcode": None}, False),
        ("pymysql.err", {"args": (1213, "Deadlock found")}, True),
        ("MySQLdb", {"args": (1205, "Lock wait timeout exceeded")}, True),
        ("mysql.connector.errors", {"errno": 1213}, True),
        ("mariadb", {"errno": 1062}, False),
        ("sqlite3", {"sqlite_errorcode": 5}, True),
        ("sqlite3", {"sqlite_errorcode": 517}, True),  # SQLITE_BUSY_SNAPSHOT
        ("sqlite3", {"sqlite_errorcode": 1}, False),
        ("sqlite3", {"args": ("database is locked",)}, True),
        ("sqlite3", {"args": ("no such table: note",)}, False),
        ("apsw", {"extendedresult": 6}, True),
        ("elsewhere", {"args": ("database is locked",)}, False),
    ],
)
def test_what_is_a_conflict(module: str, attributes: dict[str, Any], conflict: bool) -> None:
    error = type("Error", (Numbered,), {"__module__": module})("x")
    for name, value in attributes.items():
        setattr(error, name, value)
    assert is_conflict(error) is conflict
    translated = peewee.OperationalError("x")
    translated.__cause__ = error
    assert is_conflict(translated) is conflict
