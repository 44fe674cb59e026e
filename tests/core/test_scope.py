"""A scope's life: what it takes, what it gives back, and which scope is current."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, Scope, ScopeClosed
from peewee_web.core.errors import ScopeError
from peewee_web.core.scope import current_scope
from tests.core.working import in_use, query, save, saved


def test_a_query_takes_a_connection_and_the_end_gives_it_back(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        query(database)
        assert in_use(database) == 1
    assert in_use(database) == 0


def test_a_scope_without_a_query_takes_no_connection(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope():
        assert in_use(database) == 0


def test_queries_of_one_scope_share_one_connection(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        assert database.connection() is database.connection()
        query(database)
        assert in_use(database) == 1


def test_a_nested_scope_has_a_connection_of_its_own(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        outer = database.connection()
        with peewee_web.scope():
            assert database.connection() is not outer


def test_the_outer_scope_has_its_connection_back_after_the_inner_one(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        outer = database.connection()
        with peewee_web.scope():
            query(database)
        assert database.connection() is outer


def test_the_outer_scope_is_current_again_after_the_inner_one_failed() -> None:
    with peewee_web.scope() as outer:
        with pytest.raises(ZeroDivisionError), peewee_web.scope():
            raise ZeroDivisionError
        assert current_scope() is outer
    assert current_scope() is None


def test_a_nested_scope_knows_the_named_databases_of_the_outer_one(database: PooledSqliteDatabase) -> None:
    databases = Databases(database)
    with databases.scope(), peewee_web.scope() as inner:
        assert inner.databases is databases


def test_a_nested_scope_does_not_inherit_the_outer_transaction(database: PooledSqliteDatabase) -> None:
    with Databases(database, atomic=True).scope(), peewee_web.scope():
        query(database)
        assert not database.in_transaction()


def test_a_scope_leaves_the_threads_own_connection_alone(database: PooledSqliteDatabase) -> None:
    database.connect()
    outside = database.connection()
    with peewee_web.scope():
        assert database.connection() is not outside
    assert database.connection() is outside
    database.close()


def test_an_exception_gives_the_connection_back(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    def fail() -> float:
        return query(database) / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert in_use(database) == 0


def test_a_scope_can_not_be_used_twice() -> None:
    scope = peewee_web.scope()
    with scope:
        pass
    with pytest.raises(ScopeError, match="used before"), scope:
        pass


def test_a_scope_can_not_be_entered_within_itself() -> None:
    with peewee_web.scope() as scope:
        with pytest.raises(ScopeError, match="used before"), scope:
            pass
        assert current_scope() is scope


def test_ending_twice_is_ending_once(database: PooledSqliteDatabase) -> None:
    scope = peewee_web.scope()
    with scope.activate():
        query(database)
    scope.end()
    with peewee_web.scope():
        query(database)
        scope.end()
        assert in_use(database) == 1


def test_a_query_after_the_end_says_what_to_do(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        query(database)
        context = contextvars.copy_context()
    with pytest.raises(ScopeClosed, match=r"with peewee_web\.scope\(\)"):
        context.run(query, database)
    assert in_use(database) == 0


def test_an_ended_scope_is_closed_for_a_database_that_it_never_used(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        context = contextvars.copy_context()
    with pytest.raises(ScopeClosed):
        context.run(database.connect)
    assert in_use(database) == 0


def test_a_model_query_after_the_end_raises_scope_closed_through_peewee(database: PooledSqliteDatabase) -> None:
    class Note(peewee.Model):
        class Meta:
            database: Any = None

    Note.bind(database)
    with peewee_web.scope():
        context = contextvars.copy_context()
    with pytest.raises(ScopeClosed):
        context.run(lambda: list(Note.select()))


def test_code_that_outlives_its_scope_may_open_one_of_its_own(database: PooledSqliteDatabase) -> None:
    def work() -> int:
        with peewee_web.scope():
            return query(database)

    with peewee_web.scope():
        context = contextvars.copy_context()
    assert context.run(work) == 1


def test_closing_the_database_after_the_end_does_nothing(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        query(database)
        context = contextvars.copy_context()
    assert context.run(database.close) is False


@pytest.mark.parametrize("block", ["atomic", "connection_context", "itself"])
def test_a_block_that_outlives_its_scope_raises_scope_closed(database: PooledSqliteDatabase, block: str) -> None:
    scope = peewee_web.scope()

    def work() -> None:
        with scope.activate(), database if block == "itself" else getattr(database, block)():
            query(database)
            scope.end()
            query(database)

    with pytest.raises(ScopeClosed):
        work()


@pytest.mark.parametrize("block", ["atomic", "itself"])
def test_a_transaction_that_outlives_its_scope_can_not_seem_committed(
    database: PooledSqliteDatabase, block: str
) -> None:
    scope = peewee_web.scope()

    def work() -> None:
        with scope.activate(), database if block == "itself" else database.atomic():
            save(database)
            scope.end()

    with pytest.raises(ScopeClosed):
        work()
    assert saved(database) == []


def test_an_eager_scope_takes_its_connections_at_the_start(database: PooledSqliteDatabase) -> None:
    with Databases(database, lazy=False).scope():
        assert in_use(database) == 1
    assert in_use(database) == 0


def test_an_eager_scope_that_finds_no_connection_leaves_nothing_behind(tmp_path: Any) -> None:
    small = PooledSqliteDatabase(str(tmp_path / "small.db"), max_connections=1, timeout=None)
    first = PooledSqliteDatabase(str(tmp_path / "first.db"))
    with peewee_web.scope():
        query(small)
        with (
            pytest.raises(peewee_web.PoolTimeout),
            Databases({"first": first, "small": small}, lazy=False).scope(),
        ):
            pytest.fail("the block must not be entered")
        assert (in_use(first), in_use(small)) == (0, 1)
        query(small)
    small.close_all()
    first.close_all()


def test_an_eager_scope_that_finds_no_connection_restores_the_scope_before_it(tmp_path: Any) -> None:
    nowhere = PooledSqliteDatabase(str(tmp_path / "none" / "nowhere.db"))
    with peewee_web.scope() as outer:
        with pytest.raises(peewee.OperationalError), Databases(nowhere, lazy=False).scope():
            pass
        assert current_scope() is outer


def test_an_eager_async_scope_that_finds_no_connection_restores_the_scope_before_it(tmp_path: Any) -> None:
    nowhere = PooledSqliteDatabase(str(tmp_path / "none" / "nowhere.db"))

    async def work() -> None:
        async with peewee_web.scope() as outer:
            with pytest.raises(peewee.OperationalError):
                async with Databases(nowhere, lazy=False).scope():
                    pass
            assert current_scope() is outer

    asyncio.run(work())


def test_an_async_scope_gives_its_connection_back(database: PooledSqliteDatabase) -> None:
    async def work() -> None:
        async with peewee_web.scope():
            query(database)
            assert in_use(database) == 1
        assert in_use(database) == 0

    asyncio.run(work())


def test_release_gives_the_connection_back_and_the_next_query_takes_another(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope() as scope:
        query(database)
        scope.release()
        assert in_use(database) == 0
        query(database)
        assert in_use(database) == 1


def test_release_leaves_a_transaction_alone(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope() as scope, database.atomic():
        save(database)
        scope.release()
        assert in_use(database) == 1
    assert saved(database) == ["x"]


def test_release_leaves_a_transaction_alone_that_was_begun_in_sql(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope() as scope:
        database.execute_sql("BEGIN")
        scope.release()
        save(database)
        database.execute_sql("COMMIT")
    assert saved(database) == ["x"]


def test_release_leaves_a_connection_block_alone(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope() as scope, database.connection_context():
        held = database.connection()
        scope.release()
        assert database.connection() is held


def test_release_leaves_a_half_read_result_alone(database: PooledSqliteDatabase) -> None:
    for text in "abc":
        save(database, text)
    database.close()
    with peewee_web.scope() as scope:
        rows = database.execute_sql("SELECT text FROM note")
        assert rows.fetchone() == ("a",)
        scope.release()
        assert in_use(database) == 1
        assert rows.fetchall() == [("b",), ("c",)]


def test_a_forced_release_rolls_a_transaction_back(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    with peewee_web.scope() as scope:
        database.session_start()
        save(database)
        scope.release(force=True)
        assert in_use(database) == 0
    assert saved(database) == []
    assert "was left open" in caplog.text


def test_release_does_not_raise_when_the_app_closed_the_drivers_connection(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope() as scope:
        database.connection().close()
        scope.release()


def test_the_end_does_not_raise_when_the_app_closed_the_drivers_connection(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        database.connection().close()
    assert in_use(database) == 0


def test_a_connection_that_the_app_closed_is_not_handed_out_again(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        database.connection().close()
    with peewee_web.scope():
        assert query(database) == 1


def test_the_repr_says_what_is_held(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope(atomic=True) as scope:
        query(database)
        assert repr(scope) == "<Scope atomic, 1 connection held>"
    assert repr(scope) == "<Scope ended, 0 connections held>"


def test_a_scope_made_with_a_wrong_argument_fails_once() -> None:
    with pytest.raises(TypeError, match="eager"):
        Scope(eager=True)  # type: ignore[call-arg]
    gc.collect()  # an exception in its finalizer would be an error here


def test_a_scope_that_was_never_begun_needs_no_end(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "peewee_web")
    Databases(database).scope()
    gc.collect()
    query(database)
    database.close()
    assert caplog.text == ""
