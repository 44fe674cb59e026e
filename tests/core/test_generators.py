"""``@scope()`` on functions, coroutines and generators."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, PoolTimeout
from peewee_web.core.scope import current_scope
from tests.core.working import in_use, query, save, saved


def test_each_call_of_a_function_runs_in_a_new_scope(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    def work() -> Any:
        query(database)
        return current_scope()

    first, second = work(), work()
    assert (first is not second, first.ended, in_use(database)) == (True, True, 0)


def test_each_call_of_a_coroutine_runs_in_a_new_scope(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    async def work() -> Any:
        query(database)
        await asyncio.sleep(0)
        return database.connection()

    async def both() -> list[Any]:
        return await asyncio.gather(work(), work())

    first, second = asyncio.run(both())
    assert (first is not second, in_use(database)) == (True, 0)


def test_a_decorated_function_keeps_its_name_and_kind() -> None:
    @peewee_web.scope()
    async def work() -> None:
        """What it does."""

    assert (work.__name__, work.__doc__) == ("work", "What it does.")
    assert asyncio.iscoroutinefunction(work)


def test_a_generator_has_its_scope_only_while_it_runs(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    def rows() -> Iterator[Any]:
        yield database.connection()
        yield database.connection()

    steps = rows()
    first = next(steps)
    assert current_scope() is None
    assert (next(steps) is first, in_use(database)) == (True, 1)
    assert next(steps, None) is None
    assert in_use(database) == 0


def test_a_generator_inside_a_scope_does_not_use_that_scopes_connection(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    def rows() -> Iterator[Any]:
        yield database.connection()

    with peewee_web.scope() as outer:
        steps = rows()
        assert next(steps) is not database.connection()
        assert current_scope() is outer
        steps.close()  # type: ignore[attr-defined]


def test_a_generator_that_fails_gives_its_connection_back(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    def rows() -> Iterator[int]:
        yield query(database)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(rows())
    assert (in_use(database), current_scope()) == (0, None)


def test_a_generator_that_is_closed_early_gives_its_connection_back(database: PooledSqliteDatabase) -> None:
    seen = []

    @peewee_web.scope()
    def rows() -> Iterator[int]:
        try:
            yield query(database)
        finally:
            seen.append(query(database))

    steps = rows()
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert (seen, in_use(database)) == ([1], 0)


def test_a_generator_that_is_dropped_runs_its_finally_in_its_scope(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    seen = []

    @peewee_web.scope()
    def rows() -> Iterator[Any]:
        first = database.connection()
        try:
            yield 1
        finally:
            seen.append(database.connection() is first)

    for _ in rows():
        break
    gc.collect()
    query(database)
    database.close()
    assert (seen, in_use(database), caplog.text) == ([True], 0, "")


def test_a_generator_that_is_never_begun_takes_nothing(database: PooledSqliteDatabase) -> None:
    @Databases(database).scope(lazy=False)
    def rows() -> Iterator[int]:
        yield 1

    steps = rows()
    with peewee_web.scope(), peewee_web.scope():
        steps.close()  # type: ignore[attr-defined]
    assert in_use(database) == 0


def test_closing_a_generator_that_was_never_begun_needs_no_connection(tmp_path: Any) -> None:
    small = PooledSqliteDatabase(str(tmp_path / "small.db"), max_connections=1, timeout=None)

    @Databases(small).scope(lazy=False)
    def rows() -> Iterator[int]:
        yield 1

    steps = rows()
    with peewee_web.scope():
        query(small)
        steps.close()  # type: ignore[attr-defined]
    small.close_all()


def test_an_eager_generator_takes_its_connection_with_the_first_step(database: PooledSqliteDatabase) -> None:
    @Databases(database).scope(lazy=False)
    def rows() -> Iterator[int]:
        yield 1
        yield 2

    steps = rows()
    assert in_use(database) == 0
    next(steps)
    assert in_use(database) == 1
    list(steps)
    assert in_use(database) == 0


def test_an_eager_generator_that_finds_no_connection_raises_with_the_first_step(tmp_path: Any) -> None:
    small = PooledSqliteDatabase(str(tmp_path / "small.db"), max_connections=1, timeout=None)

    @Databases(small).scope(lazy=False)
    def rows() -> Iterator[int]:
        yield 1

    with peewee_web.scope():
        query(small)
        with pytest.raises(PoolTimeout):
            next(rows())
    small.close_all()


def test_a_generator_takes_values_and_exceptions_and_returns(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    def talk() -> Any:
        heard = []
        try:
            heard.append((yield query(database)))
        except ZeroDivisionError:
            heard.append("thrown")
        heard.append((yield 2))
        return heard

    def outer() -> Any:
        return (yield from talk())

    steps = outer()
    assert next(steps) == 1
    assert steps.throw(ZeroDivisionError()) == 2
    with pytest.raises(StopIteration) as stop:
        steps.send("sent")
    assert (stop.value.value, in_use(database)) == (["thrown", "sent"], 0)


@pytest.mark.parametrize(("stop_after", "expected"), [(9, ["x"]), (1, [])])
def test_an_atomic_generator_commits_when_it_is_exhausted_and_only_then(
    database: PooledSqliteDatabase, stop_after: int, expected: list[str]
) -> None:
    @Databases(database).scope(atomic=True)
    def rows() -> Iterator[int]:
        save(database)
        yield 1
        yield 2

    steps = rows()
    for number, _ in enumerate(steps, 1):
        if number == stop_after:
            break
    steps.close()  # type: ignore[attr-defined]
    assert saved(database) == expected


def test_a_context_manager_made_of_a_scoped_generator_works(database: PooledSqliteDatabase) -> None:
    @contextlib.contextmanager
    @peewee_web.scope()
    def job() -> Iterator[int]:
        yield query(database)

    def fail() -> None:
        with job():
            raise ZeroDivisionError

    with job() as answer:
        assert (answer, in_use(database)) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert in_use(database) == 0


def test_an_async_generator_has_its_scope_only_while_it_runs(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    async def rows() -> AsyncIterator[Any]:
        yield database.connection()
        await asyncio.sleep(0)
        yield database.connection()

    async def work() -> None:
        connections = []
        async for connection in rows():
            connections.append(connection)
            assert current_scope() is None
        assert connections[0] is connections[1]

    asyncio.run(work())
    assert in_use(database) == 0


@pytest.mark.parametrize("lazy", [True, False])
def test_an_async_generator_that_is_closed_early_gives_its_connection_back(
    database: PooledSqliteDatabase, lazy: bool
) -> None:
    seen = []

    @Databases(database).scope(lazy=lazy)
    async def rows() -> AsyncIterator[int]:
        try:
            yield query(database)
        finally:
            seen.append(query(database))

    async def work() -> None:
        steps = rows()
        await steps.__anext__()
        await steps.aclose()  # type: ignore[attr-defined]

    asyncio.run(work())
    assert (seen, in_use(database)) == ([1], 0)


def test_an_async_generator_that_fails_gives_its_connection_back(database: PooledSqliteDatabase) -> None:
    @peewee_web.scope()
    async def rows() -> AsyncIterator[int]:
        yield query(database)
        raise ZeroDivisionError

    async def work() -> None:
        async for _ in rows():
            pass

    with pytest.raises(ZeroDivisionError):
        asyncio.run(work())
    assert in_use(database) == 0


def test_closing_an_async_generator_that_was_never_begun_needs_no_connection(tmp_path: Any) -> None:
    small = PooledSqliteDatabase(str(tmp_path / "small.db"), max_connections=1, timeout=None)

    @Databases(small).scope(lazy=False)
    async def rows() -> AsyncIterator[int]:
        yield 1

    async def work() -> None:
        with peewee_web.scope():
            query(small)
            await rows().aclose()  # type: ignore[attr-defined]

    asyncio.run(work())
    small.close_all()


@pytest.mark.parametrize("fails", [False, True])
def test_an_atomic_async_generator_commits_when_it_is_exhausted_and_only_then(
    database: PooledSqliteDatabase, fails: bool
) -> None:
    @Databases(database).scope(atomic=True)
    async def rows() -> AsyncIterator[int]:
        save(database)
        yield 1
        if fails:
            raise ZeroDivisionError

    async def work() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async for _ in rows():
                pass

    asyncio.run(work())
    assert saved(database) == ([] if fails else ["x"])
