"""Transactions: those that a scope was asked for, and those that its code left open."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase
from peewee_web.core.atomic import atomic_requests, non_atomic_requests
from peewee_web.core.errors import ScopeError
from tests.core.working import Served, in_use, query, save, saved

LEFT_OPEN: dict[str, Callable[[Any], object]] = {
    "atomic": lambda database: database.atomic().__enter__(),
    "begin": lambda database: database.begin(),
    "itself": lambda database: database.__enter__(),
    "manual": lambda database: (database.manual_commit().__enter__(), database.begin()),
    "nested": lambda database: (database.atomic().__enter__(), database.atomic().__enter__()),
    "session": lambda database: database.session_start(),
    "sql": lambda database: database.execute_sql("BEGIN"),
    "transaction": lambda database: database.transaction().__enter__(),
}


@pytest.mark.parametrize("kind", LEFT_OPEN)
def test_a_transaction_left_open_is_rolled_back(database: PooledSqliteDatabase, kind: str) -> None:
    with peewee_web.scope():
        LEFT_OPEN[kind](database)
        save(database)
    assert in_use(database) == 0
    assert saved(database) == []


@pytest.mark.parametrize("kind", LEFT_OPEN)
def test_the_next_scope_starts_without_a_transaction(database: PooledSqliteDatabase, kind: str) -> None:
    with peewee_web.scope():
        LEFT_OPEN[kind](database)
    with peewee_web.scope():
        assert not database.connection().in_transaction
        assert database.transaction_depth() == 0
        save(database)
    assert saved(database) == ["x"]


@pytest.mark.parametrize("kind", sorted(LEFT_OPEN.keys() - {"sql"}))
def test_a_transaction_left_open_is_warned_about_with_its_place(
    database: PooledSqliteDatabase, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with peewee_web.scope():
        LEFT_OPEN[kind](database)
    [record] = caplog.records
    assert __file__ in record.getMessage()


def test_a_transaction_begun_in_sql_is_warned_about(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with peewee_web.scope():
        database.execute_sql("BEGIN")
    assert "an unknown place" in caplog.text


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_a_transaction_ended_in_sql_is_not_warned_about(
    database: PooledSqliteDatabase, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    with peewee_web.scope():
        connection = database.connection()
        database.begin()
        database.execute_sql(end)
    assert caplog.text == ""
    with peewee_web.scope():
        assert database.connection() is connection


def test_a_transaction_that_was_ended_is_not_warned_about(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with peewee_web.scope():
        with database.atomic():
            save(database)
        database.session_start()
        database.session_rollback()
    assert caplog.text == ""


def test_closing_returns_a_connection_whose_raw_transaction_was_rolled_back(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        database.begin()
        save(database)
        database.close()
        assert in_use(database) == 0
    assert saved(database) == []


def test_an_atomic_scope_commits(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope(atomic=True):
        save(database)
        assert database.in_transaction()
    assert saved(database) == ["x"]


def test_an_atomic_scope_that_fails_rolls_back_without_a_warning(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    @Databases(database).scope(atomic=True)
    def fail() -> None:
        save(database)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (saved(database), caplog.text) == ([], "")


def test_an_atomic_scope_that_is_just_ended_rolls_back_without_a_warning(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    scope = Databases(database).scope(atomic=True)
    with scope.activate():
        save(database)
    scope.end()
    assert (saved(database), caplog.text) == ([], "")


def test_an_atomic_decorator_without_named_databases_is_atomic(database: PooledSqliteDatabase) -> None:
    @peewee_web.Scope(atomic=True)
    def work() -> bool:
        query(database)
        return database.in_transaction()

    assert work()


def test_a_database_that_the_atomic_scope_does_not_name_stays_in_autocommit(
    database: PooledSqliteDatabase, tmp_path: Path
) -> None:
    other = PooledSqliteDatabase(str(tmp_path / "other.db"))
    with Databases(other).scope(atomic=True):
        query(database)
        assert not database.in_transaction()
    other.close_all()


def test_an_explicit_connect_begins_the_transaction_as_well(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope(atomic=True):
        database.connect()
        save(database)
        assert database.in_transaction()
    assert saved(database) == ["x"]


@pytest.mark.parametrize("block", ["connection_context", "itself"])
def test_a_connection_block_does_not_end_an_atomic_scopes_transaction(
    database: PooledSqliteDatabase, block: str
) -> None:
    scope = Databases(database).scope(atomic=True)
    with scope.activate():
        with database if block == "itself" else database.connection_context():
            save(database)
        assert database.in_transaction()
        scope.complete(commit=False)
    scope.end()
    assert saved(database) == []


def test_after_the_outcome_is_known_statements_run_in_autocommit(database: PooledSqliteDatabase) -> None:
    scope = Databases(database).scope(atomic=True)
    with scope.activate():
        save(database, "before")
        scope.complete(commit=True)
        save(database, "after")
    scope.end()
    assert saved(database) == ["after", "before"]


def test_after_commit_callbacks_run_when_the_atomic_scope_has_committed(database: PooledSqliteDatabase) -> None:
    seen = []
    with Databases(database).scope(atomic=True):
        save(database)
        database.after_commit(lambda: seen.append(database.in_transaction()))
        assert seen == []
    assert seen == [False]


def test_after_commit_callbacks_do_not_run_when_the_atomic_scope_rolls_back(database: PooledSqliteDatabase) -> None:
    scope = Databases(database).scope(atomic=True)
    with scope.activate():
        save(database)
        database.after_commit(pytest.fail)
        scope.complete(commit=False)
        with database.atomic():
            query(database)
    scope.end()


def test_an_inner_transaction_left_open_fails_the_commit(database: PooledSqliteDatabase) -> None:
    @Databases(database).scope(atomic=True)
    def work() -> None:
        save(database)
        database.session_start()

    with pytest.raises(ScopeError, match="left open"):
        work()
    assert (saved(database), in_use(database)) == ([], 0)


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    """A database in which `break_commit` makes the next commit fail."""
    strict = PooledSqliteDatabase(str(tmp_path / "strict.db"), pragmas={"foreign_keys": 1, "journal_mode": "wal"})
    with strict.connection_context():
        strict.execute_sql("CREATE TABLE note (text TEXT)")
        strict.execute_sql("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        strict.execute_sql("CREATE TABLE child (id INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)")
    yield strict
    left = in_use(strict)
    strict.close_all()
    assert left == 0


def break_commit(strict: PooledSqliteDatabase) -> None:
    save(strict)
    strict.execute_sql("INSERT INTO child VALUES (7)")


def test_a_failed_commit_raises_and_rolls_back(strict: PooledSqliteDatabase) -> None:
    @Databases(strict).scope(atomic=True)
    def work() -> None:
        break_commit(strict)

    with pytest.raises(peewee.IntegrityError):
        work()
    assert saved(strict) == []


def test_a_failed_commit_rolls_the_other_databases_back(
    strict: PooledSqliteDatabase, database: PooledSqliteDatabase
) -> None:
    @Databases({"first": strict, "second": database}).scope(atomic=True)
    def work() -> None:
        break_commit(strict)
        save(database)

    with pytest.raises(peewee.IntegrityError):
        work()
    assert (saved(strict), saved(database)) == ([], [])


def test_a_rollback_that_fails_does_not_keep_the_other_databases_from_theirs(
    strict: PooledSqliteDatabase, database: PooledSqliteDatabase
) -> None:
    scope = Databases({"first": strict, "second": database}).scope(atomic=True)
    with scope.activate():
        save(strict)
        save(database)
        strict.connection().close()
        scope.complete(commit=False)
        assert database.execute_sql("SELECT count(*) FROM note").fetchone() == (0,)
    scope.end()


def test_a_commit_callback_that_fails_leaves_no_connection(database: PooledSqliteDatabase) -> None:
    @Databases(database).scope(atomic=True)
    def work() -> None:
        save(database)
        database.after_commit(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        work()
    assert (saved(database), in_use(database)) == (["x"], 0)


def test_opting_in_begins_the_transaction_on_an_open_connection(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope() as scope:
        save(database, "before")
        scope.set_atomic(True)
        save(database, "inside")
        scope.complete(commit=False)
    assert saved(database) == ["before"]


def test_opting_in_counts_for_connections_that_are_opened_later(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope() as scope:
        scope.set_atomic(True)
        save(database)
        scope.complete(commit=False)
    assert saved(database) == []


def test_opting_out_commits_what_was_written(database: PooledSqliteDatabase) -> None:
    scope = Databases(database, atomic=True).scope()
    with scope.activate():
        save(database, "hook")
        scope.set_atomic(False)
        save(database, "view")
    scope.end()
    assert saved(database) == ["hook", "view"]


def test_opting_in_leaves_a_transaction_of_the_apps_own_to_the_app(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope() as scope, database.atomic():
        save(database)
        scope.set_atomic(True)
    assert saved(database) == ["x"]


def test_opting_in_leaves_a_transaction_alone_that_was_begun_in_sql(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope() as scope:
        database.execute_sql("BEGIN")
        save(database)
        scope.set_atomic(True)
        database.execute_sql("COMMIT")
    assert saved(database) == ["x"]


def test_an_atomic_scope_whose_app_committed_and_closed_begins_again(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope(atomic=True) as scope:
        save(database, "kept")
        database.session_commit()
        database.close()
        save(database, "lost")
        scope.complete(commit=False)
    assert saved(database) == ["kept"]


@pytest.mark.parametrize(("decorate", "expected"), [(atomic_requests, True), (non_atomic_requests, False)])
def test_a_view_chooses(database: PooledSqliteDatabase, decorate: Any, expected: bool) -> None:
    @decorate
    def view() -> bool:
        query(database)
        return database.in_transaction()

    with Databases(database, atomic=not expected).scope():
        assert view() is expected


def test_a_view_that_chooses_outside_a_request_says_so() -> None:
    @atomic_requests
    def view() -> None:
        pass

    with pytest.raises(ScopeError, match="outside a request"):
        view()


@pytest.mark.parametrize("block", ["atomic", "transaction"])
def test_an_atomic_scope_may_begin_with_a_block(served: Served, block: str) -> None:
    with Databases(served.database, atomic=True).scope(), getattr(served.database, block)():
        save(served.database, "kept")
    assert saved(served.database) == ["kept"]


def test_a_block_with_which_an_atomic_scope_begins_is_undone_by_itself(served: Served) -> None:
    with Databases(served.database, atomic=True).scope():
        with contextlib.suppress(ZeroDivisionError), served.database.atomic():
            save(served.database, "lost")
            raise ZeroDivisionError
        save(served.database, "kept")
    assert saved(served.database) == ["kept"]


def test_an_atomic_scope_on_a_file_may_begin_with_a_block(database: PooledSqliteDatabase) -> None:
    with Databases(database, atomic=True).scope():
        with contextlib.suppress(ZeroDivisionError), database.atomic():
            save(database, "lost")
            raise ZeroDivisionError
        save(database, "kept")
    assert saved(database) == ["kept"]


def test_transactions_by_hand_are_refused_at_the_beginning_of_an_atomic_scope(database: PooledSqliteDatabase) -> None:
    with Databases(database, atomic=True).scope(), pytest.raises(ValueError, match="Cannot enter manual commit"):
        database.manual_commit().__enter__()
