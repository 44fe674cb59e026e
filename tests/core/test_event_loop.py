"""Coroutines: what they share, and that the event loop's thread never waits for one of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, PoolTimeout, ScopeClosed
from peewee_web.core.scope import current_scope
from tests.core.working import PATIENCE, in_use, query, save


@pytest.fixture
def one(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    """A pool of one, for which a checkout waits nearly as long as a test may take."""
    one = PooledSqliteDatabase(str(tmp_path / "one.db"), max_connections=1, timeout=PATIENCE)
    yield one
    left = in_use(one)
    one.close_all()
    assert left == 0


def test_coroutines_gathered_in_a_scope_share_its_transaction(database: PooledSqliteDatabase) -> None:
    async def write() -> None:
        await asyncio.sleep(0)
        save(database)

    async def work() -> int:
        async with peewee_web.scope():
            with database.atomic() as transaction:
                await asyncio.gather(write(), write())
                transaction.rollback()
            return int(database.execute_sql("SELECT count(*) FROM note").fetchone()[0])

    assert asyncio.run(work()) == 0


def test_work_in_a_worker_thread_has_the_scopes_connection(database: PooledSqliteDatabase) -> None:
    async def work() -> bool:
        async with peewee_web.scope():
            return database.connection() is await asyncio.to_thread(database.connection)

    assert asyncio.run(work())


def test_scopes_of_coroutines_that_take_turns_do_not_mix(database: PooledSqliteDatabase) -> None:
    async def request() -> bool:
        async with peewee_web.scope():
            mine = database.connection()
            for _ in range(5):
                await asyncio.sleep(0)
                if database.connection() is not mine:
                    return False
            return True

    async def work() -> list[bool]:
        return await asyncio.gather(*(request() for _ in range(3)))

    assert asyncio.run(work()) == [True, True, True]


def test_a_task_that_outlives_its_scope_is_told(database: PooledSqliteDatabase) -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def late() -> None:
            await go_on.wait()
            query(database)

        async with peewee_web.scope():
            query(database)
            task = asyncio.create_task(late())
        go_on.set()
        with pytest.raises(ScopeClosed):
            await task

    asyncio.run(work())
    assert in_use(database) == 0


def test_a_lazy_checkout_on_the_loops_thread_does_not_wait(one: PooledSqliteDatabase) -> None:
    async def work() -> float:
        async with peewee_web.scope():
            query(one)
            async with peewee_web.scope():
                begun = time.monotonic()
                with pytest.raises(PoolTimeout, match=r"\(1 of 1 in use, 0 idle, 0 waiting; the oldest .*\)"):
                    query(one)
                return time.monotonic() - begun

    assert asyncio.run(work()) < PATIENCE / 2


def test_an_eager_scope_waits_while_the_loop_goes_on(one: PooledSqliteDatabase) -> None:
    async def hold_until(released: asyncio.Event) -> None:
        async with peewee_web.scope():
            query(one)
            await released.wait()

    async def work() -> None:
        released = asyncio.Event()
        holder = asyncio.create_task(hold_until(released))
        await asyncio.sleep(0)
        eager = Databases(one, lazy=False).scope()
        connecting = asyncio.create_task(eager.connect_async())
        for _ in range(3):  # the loop is not blocked: we get our turns
            await asyncio.sleep(0.001)
        assert not connecting.done()
        released.set()
        await holder
        await asyncio.wait_for(connecting, PATIENCE)
        assert in_use(one) == 1
        eager.end()

    asyncio.run(work())


def test_an_eager_scope_needs_no_worker_thread_which_may_all_be_waiting_for_a_connection(
    one: PooledSqliteDatabase,
) -> None:
    async def work() -> int:
        released = threading.Event()
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(max_workers=1) as workers:
            loop.set_default_executor(workers)
            occupied = loop.run_in_executor(None, released.wait, PATIENCE)
            try:
                async with Databases(one, lazy=False).scope():
                    found = query(one)
                assert not occupied.done()
            finally:
                released.set()
            await occupied
        return found

    assert asyncio.run(work()) == 1


def test_a_database_without_a_name_is_refused_also_by_an_eager_scope() -> None:
    async def work() -> None:
        async with Databases(PooledSqliteDatabase(None), lazy=False).scope():
            pass

    with pytest.raises(peewee.InterfaceError, match="must be initialized"):
        asyncio.run(work())


def test_an_eager_scope_gives_up_after_the_pools_timeout(tmp_path: Path) -> None:
    small = PooledSqliteDatabase(str(tmp_path / "small.db"), max_connections=1, timeout=0.05)

    async def work() -> None:
        async with peewee_web.scope():
            query(small)
            with pytest.raises(PoolTimeout, match=r"in 0\.. s \(1 of 1 in use, 0 idle, 0 waiting; the oldest .*\)"):
                async with Databases(small, lazy=False).scope():
                    pass
            query(small)

    asyncio.run(work())
    small.close_all()


def test_an_eager_scope_that_is_cancelled_while_it_waits_leaves_nothing(one: PooledSqliteDatabase) -> None:
    async def enter() -> None:
        async with Databases(one, lazy=False).scope():
            pytest.fail("there is no connection to be had")

    async def work() -> None:
        async with peewee_web.scope() as outer:
            query(one)
            task = asyncio.create_task(enter())
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert current_scope() is outer
            assert in_use(one) == 1

    asyncio.run(work())


def test_an_eager_scope_takes_the_connections_of_all_databases(
    one: PooledSqliteDatabase, database: PooledSqliteDatabase
) -> None:
    async def work() -> tuple[int, int]:
        async with Databases({"one": one, "other": database}, lazy=False).scope():
            return in_use(one), in_use(database)

    assert asyncio.run(work()) == (1, 1)


def test_an_eager_atomic_scope_begins_its_transaction_off_the_loop(one: PooledSqliteDatabase) -> None:
    async def work() -> Any:
        async with Databases(one, lazy=False, atomic=True).scope():
            return one.in_transaction()

    assert asyncio.run(work())


@pytest.mark.parametrize("activated", [False, True], ids=["entered", "activated"])
def test_a_coroutine_collected_half_way_leaves_the_scope_of_others_current(activated: bool) -> None:
    """Its task was dropped pending; the garbage collector closes it amid the work of whoever it interrupts."""

    async def dropped() -> None:
        scope = peewee_web.scope()
        if activated:
            with scope.activate():
                await asyncio.sleep(0)
        else:
            async with scope:
                await asyncio.sleep(0)

    coroutine = dropped()
    contextvars.copy_context().run(coroutine.send, None)
    with peewee_web.scope() as mine:
        coroutine.close()
        assert current_scope() is mine
