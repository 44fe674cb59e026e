"""Several threads in one scope, threads outside of any, and the races between their work and the scope's end."""

from __future__ import annotations

import contextvars
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, ScopeClosed
from tests.core.working import PATIENCE, Working, in_thread, in_use, query, save, saved
from tests.servers.mariadb import MariaDBServer


class Gate:
    """Two events: that a thread has come to a place, and that it may go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def slow_query(database: PooledSqliteDatabase, gate: Gate) -> Callable[[], Any]:
    """A statement that goes on until *gate* opens."""
    database.close_idle()  # a function is known on new connections only
    database.register_function(lambda: gate.pass_() or 1, "pass_gate", 0)
    return lambda: database.execute_sql("INSERT INTO note SELECT pass_gate()").rowcount


def test_threads_of_one_scope_share_its_connection(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        mine = database.connection()
        assert Working(None, database.connection).result() is mine


def test_a_thread_that_knows_nothing_of_the_scope_has_its_own_connection(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        mine = database.connection()
        theirs, count = in_thread(lambda: (database.connection(), in_use(database)))
        assert (theirs is not mine, count) == (True, 2)
    query(database)  # takes the dead thread's connection back
    database.close()


def test_threads_of_one_scope_share_its_transaction(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        with database.atomic() as transaction:
            Working(None, lambda: save(database)).result()
            transaction.rollback()
        assert database.execute_sql("SELECT count(*) FROM note").fetchone() == (0,)


def test_statements_of_one_scope_do_not_mix_on_a_driver_that_can_not_share(mariadb: MariaDBServer) -> None:
    database: Any = peewee_web.connect(mariadb.url())

    def ask(first: int) -> list[bool]:
        numbers = range(first, first + 100)
        return [database.execute_sql("SELECT %s", (number,)).fetchone() == (number,) for number in numbers]

    with peewee_web.scope():
        threads = [Working(None, lambda n=n: ask(n)) for n in (0, 1000, 2000)]
        assert all(all(thread.result()) for thread in threads)
        assert in_use(database) == 1
    database.close_all()


def test_the_end_does_not_wait_for_a_statement_in_another_thread(database: PooledSqliteDatabase, gate: Gate) -> None:
    with peewee_web.scope() as scope:
        thread = Working(None, slow_query(database, gate))
        assert gate.reached.wait(PATIENCE)
        scope.end()
        assert in_use(database) == 1
        gate.opened.set()
        assert thread.result() == 1
    assert in_use(database) == 0


def test_release_leaves_a_connection_that_another_thread_uses(database: PooledSqliteDatabase, gate: Gate) -> None:
    with peewee_web.scope() as scope:
        thread = Working(None, slow_query(database, gate))
        assert gate.reached.wait(PATIENCE)
        scope.release(force=True)
        assert in_use(database) == 1
        gate.opened.set()
        thread.result()


def test_a_thread_that_connects_while_the_scope_ends_leaves_no_connection(
    database: PooledSqliteDatabase, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.close_idle()
    scope = Databases(database, lazy=False).scope()
    plain_connect = PooledSqliteDatabase._connect

    def connect(self: PooledSqliteDatabase) -> Any:
        gate.pass_()
        return plain_connect(self)

    monkeypatch.setattr(PooledSqliteDatabase, "_connect", connect)
    thread = Working(None, scope.connect)
    assert gate.reached.wait(PATIENCE)
    scope.end()
    gate.opened.set()
    thread.result()
    assert in_use(database) == 0


def test_a_scope_that_ends_during_an_early_release_is_ended(
    database: PooledSqliteDatabase, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_in = database.pool.checkin

    def slow_checkin(*args: Any, **kwargs: Any) -> None:
        gate.pass_()
        check_in(*args, **kwargs)

    with peewee_web.scope() as scope:
        query(database)
        monkeypatch.setattr(database.pool, "checkin", slow_checkin)
        thread = Working(None, scope.release)
        assert gate.reached.wait(PATIENCE)
        scope.end()
        gate.opened.set()
        thread.result()
        with pytest.raises(ScopeClosed):
            query(database)


def test_a_first_query_at_the_moment_of_the_end_finds_the_scope_closed(database: PooledSqliteDatabase) -> None:
    scope = peewee_web.scope()

    class Late(dict[Any, Any]):
        def setdefault(self, key: Any, default: Any = None) -> Any:
            scope.end()
            return super().setdefault(key, default)

    scope.states = Late()
    with scope.activate(), pytest.raises(ScopeClosed):
        query(database)
    assert in_use(database) == 0


def test_a_commit_callback_may_wait_for_another_thread_of_the_scope(database: PooledSqliteDatabase) -> None:
    answers = []
    with Databases(database, atomic=True).scope():
        save(database)
        database.after_commit(lambda: answers.append(Working(None, lambda: query(database)).result()))
    assert answers == [1]


def test_a_dead_threads_connection_goes_to_the_next_checkout(tmp_path: Any) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "one.db"), max_connections=1, timeout=None)
    theirs = in_thread(database.connection)
    assert in_use(database) == 1
    with peewee_web.scope():
        assert database.connection() is theirs
    assert in_use(database) == 0
    database.close_all()


def begin_and_save(database: PooledSqliteDatabase) -> None:
    database.begin()
    save(database)


def test_a_dead_threads_transaction_is_rolled_back(database: PooledSqliteDatabase) -> None:
    in_thread(lambda: begin_and_save(database))
    assert saved(database) == []


def test_a_dead_threads_transaction_is_warned_about(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    in_thread(lambda: begin_and_save(database))
    query(database)
    database.close()
    assert "was left open" in caplog.text
    assert __file__ in caplog.text


def test_a_dead_threads_unpooled_connection_is_closed(tmp_path: Any) -> None:
    databases = Databases(peewee.SqliteDatabase(str(tmp_path / "plain.db")))
    theirs = in_thread(databases.default.connection)
    query(databases.default)
    databases.default.close()
    with pytest.raises(peewee.sqlite3.ProgrammingError):
        theirs.execute("SELECT 1")


def forget_a_scope(database: Any) -> None:
    scope = peewee_web.scope()
    with scope.activate():
        database.begin()


def test_a_collected_scopes_connection_goes_to_the_next_checkout(tmp_path: Any) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "one.db"), max_connections=1, timeout=None)
    forget_a_scope(database)
    gc.collect()
    with peewee_web.scope():
        query(database)
        assert not database.connection().in_transaction
    assert in_use(database) == 0
    database.close_all()


def test_a_collected_scope_is_reported_with_the_place_of_its_transaction(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    forget_a_scope(database)
    gc.collect()
    query(database)
    database.close()
    error, warning = caplog.records
    assert (error.levelno, "never ended" in error.getMessage()) == (logging.ERROR, True)
    assert (warning.levelno, __file__ in warning.getMessage()) == (logging.WARNING, True)


def test_collecting_a_scope_takes_no_lock(database: PooledSqliteDatabase) -> None:
    scope = peewee_web.scope()
    with scope.activate():
        query(database)
    scopes = [scope]
    del scope
    with database.pool.ledger._lock:
        Working(contextvars.Context(), scopes.clear).result()  # its last reference goes
    query(database)
    database.close()


def test_the_death_of_a_thread_takes_no_lock(database: PooledSqliteDatabase) -> None:
    ready, go_on = threading.Event(), threading.Event()

    def work() -> None:
        query(database)
        ready.set()
        go_on.wait(PATIENCE)

    thread = Working(contextvars.Context(), work)
    assert ready.wait(PATIENCE)
    with database.pool.ledger._lock:
        go_on.set()
        thread.result()
    query(database)
    database.close()


def test_one_connection_for_all_threads_is_kept_where_the_app_asked_for_it(tmp_path: Any) -> None:
    databases = Databases(peewee.SqliteDatabase(str(tmp_path / "x.db"), thread_safe=False))
    database = databases.default
    database.connect()
    assert in_thread(database.connection) is database.connection()
    database.close()


def test_a_scope_has_its_own_connection_also_of_a_database_that_is_not_thread_safe(tmp_path: Any) -> None:
    database = Databases(peewee.SqliteDatabase(str(tmp_path / "x.db"), thread_safe=False)).default
    database.connect()
    with peewee_web.scope():
        inside = database.connection()
    assert database.connection() is not inside
    database.close()
