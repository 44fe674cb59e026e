"""Checkouts of coroutines: the same queue, no blocked loop, and nothing lost by a cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from peewee_web import DatabaseUnavailable, PoolTimeout
from peewee_web.core.lease import Lease
from tests.core.simulated import Simulation, in_background
from tests.core.working import PATIENCE


async def soon(condition: Callable[[], Any]) -> None:
    """Return once *condition* holds, which the loop or another thread brings about."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def queued(sim: Simulation) -> asyncio.Task[Lease]:
    """A checkout that has just joined the queue."""
    before = sim.pool.stats().waiting
    task = asyncio.create_task(sim.pool.checkout_async())
    await soon(lambda: sim.pool.stats().waiting == before + 1)
    return task


@asynccontextmanager
async def cancelled(task: asyncio.Task[Any]) -> AsyncIterator[None]:
    """*task* is cancelled before the block, and has ended so after it."""
    task.cancel()
    yield
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)


def test_an_idle_connection_is_taken_at_once() -> None:
    with Simulation() as sim:
        (connection,) = sim.fill(1)
        assert asyncio.run(sim.pool.checkout_async()).connection is connection


def test_a_connection_is_opened_while_the_loop_goes_on() -> None:
    async def work(sim: Simulation) -> None:
        sim.server.accepting.clear()
        task = await queued(sim)
        await soon(lambda: sim.server.connecting == 1)
        sim.server.accepting.set()
        assert (await task).connection is sim.server.connections[0]

    with Simulation(start=in_background) as sim:
        asyncio.run(work(sim))


def test_coroutines_and_threads_wait_in_one_queue() -> None:
    async def work(sim: Simulation) -> None:
        (lease,) = sim.lend(1)
        served: list[str] = []

        async def take_here() -> None:
            lease = await sim.pool.checkout_async()
            served.append("coroutine")
            sim.pool.checkin(lease)

        def take_there(name: str) -> None:
            lease = sim.pool.checkout()
            served.append(name)
            sim.pool.checkin(lease)

        first = sim.waiting(lambda: take_there("first"))
        task = asyncio.create_task(take_here())
        await soon(lambda: sim.pool.stats().waiting == 2)
        last = sim.waiting(lambda: take_there("last"))
        sim.pool.checkin(lease)
        await task
        await asyncio.to_thread(first.result)
        await asyncio.to_thread(last.result)
        assert served == ["first", "coroutine", "last"]

    with Simulation(max_connections=1) as sim:
        asyncio.run(work(sim))


def test_a_coroutine_waits_no_longer_than_timeout() -> None:
    async def work(sim: Simulation) -> None:
        sim.lend(1)
        task = await queued(sim)
        sim.clock.advance(5)
        with pytest.raises(PoolTimeout, match=r"in 5\.0 s"):
            await task

    with Simulation(max_connections=1, timeout=5) as sim:
        asyncio.run(work(sim))


def test_a_coroutine_is_told_of_an_outage() -> None:
    async def work(sim: Simulation) -> None:
        with pytest.raises(DatabaseUnavailable):
            await sim.pool.checkout_async()

    with Simulation(start=in_background, timeout=None) as sim:
        sim.server.refusal = ConnectionRefusedError("nobody there")
        asyncio.run(work(sim))


def test_a_coroutine_that_is_cancelled_in_the_queue_leaves_it() -> None:
    async def work(sim: Simulation) -> None:
        (lease,) = sim.lend(1)
        async with cancelled(await queued(sim)):
            pass
        assert sim.pool.stats().waiting == 0
        sim.pool.checkin(lease)
        assert sim.pool.stats().idle == 1

    with Simulation(max_connections=1) as sim:
        asyncio.run(work(sim))


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_a_coroutine_that_is_cancelled_when_served_gives_the_connection_back(cancelled_first: bool) -> None:
    async def work(sim: Simulation) -> None:
        (lease,) = sim.lend(1)
        task = await queued(sim)
        if cancelled_first:
            async with cancelled(task):
                sim.pool.checkin(lease)
        else:
            sim.pool.checkin(lease)
            async with cancelled(task):
                pass
        assert (sim.pool.stats().in_use, sim.pool.stats().idle) == (0, 1)

    with Simulation(max_connections=1) as sim:
        asyncio.run(work(sim))


def test_a_coroutine_that_is_cancelled_in_the_step_that_wakes_it_is_cancelled() -> None:
    async def work(sim: Simulation) -> None:
        (lease,) = sim.lend(1)
        task = await queued(sim)
        sim.pool.checkin(lease)
        await asyncio.sleep(0)  # the wake-up has come to the loop, the coroutine has not run yet
        async with cancelled(task):
            pass
        assert (sim.pool.stats().in_use, sim.pool.stats().idle) == (0, 1)

    with Simulation(max_connections=1) as sim:
        asyncio.run(work(sim))


def test_a_probe_does_not_block_the_loop() -> None:
    async def work(sim: Simulation) -> None:
        go_on = hold_probe(sim)
        task = asyncio.create_task(sim.pool.checkout_async())
        await soon(lambda: sim.server.connections[0].received)
        go_on.set()
        assert (await task).connection is sim.server.connections[0]

    with Simulation(probe_after=10, start=in_background) as sim:
        asyncio.run(work(sim))


def test_a_coroutine_that_is_cancelled_while_it_probes_gives_the_connection_back() -> None:
    async def work(sim: Simulation) -> None:
        go_on = hold_probe(sim)
        task = asyncio.create_task(sim.pool.checkout_async())
        await soon(lambda: sim.server.connections[0].received)
        async with cancelled(task):
            pass
        assert sim.pool.stats().in_use == 1  # the probe is still under way
        go_on.set()
        await soon(lambda: sim.pool.stats().idle == 1)
        assert sim.pool.stats().in_use == 0

    with Simulation(probe_after=10, start=in_background) as sim:
        asyncio.run(work(sim))


def test_a_coroutine_that_is_cancelled_when_its_probe_is_over_gives_the_connection_back() -> None:
    async def work(sim: Simulation) -> None:
        sim.fill(1)
        sim.clock.advance(10.1)
        task = asyncio.create_task(sim.pool.checkout_async())
        await asyncio.sleep(0)  # the probe is over, the coroutine has not run since
        assert sim.server.connections[0].received == ["probe"]
        async with cancelled(task):
            pass
        assert (sim.pool.stats().in_use, sim.pool.stats().idle) == (0, 1)

    with Simulation(probe_after=10) as sim:
        asyncio.run(work(sim))


def test_a_probe_waits_for_no_worker_thread_of_the_loop() -> None:
    """They may all be waiting for the very connection that is to be probed."""

    async def work(sim: Simulation) -> None:
        loop, go_on = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, go_on.wait, PATIENCE)
        (connection,) = sim.fill(1)
        sim.clock.advance(10.1)
        assert (await asyncio.wait_for(sim.pool.checkout_async(), PATIENCE)).connection is connection
        go_on.set()
        assert await busy

    with Simulation(probe_after=10, start=in_background) as sim:
        asyncio.run(work(sim))


def test_a_coroutine_replaces_a_connection_that_fails_its_probe() -> None:
    async def work(sim: Simulation) -> None:
        (connection,) = sim.fill(1)
        connection.hang_up()
        assert (await sim.pool.checkout_async()).connection is sim.server.connections[1]
        assert connection.closed

    with Simulation(start=in_background) as sim:
        asyncio.run(work(sim))


def hold_probe(sim: Simulation) -> threading.Event:
    """Have one idle connection that must be probed; the probe ends when the event is set."""
    (connection,) = sim.fill(1)
    sim.clock.advance(10.1)
    go_on = threading.Event()

    def send(what: str) -> None:
        connection.received.append(what)
        assert go_on.wait(PATIENCE)

    connection.send = send  # type: ignore[method-assign]
    return go_on


@pytest.mark.parametrize("options", [{"timeout": 10}, {"timeout": 0}, {"max_waiting": 5}])
def test_a_checkout_that_would_block_the_loop_waits_for_nobody(options: dict[str, Any]) -> None:
    async def work(sim: Simulation) -> None:
        sim.lend(1)
        with pytest.raises(PoolTimeout, match="an event loop must not wait for one"):
            sim.pool.checkout()

    with Simulation(max_connections=1, **options) as sim:
        asyncio.run(work(sim))


def test_a_checkout_that_would_block_the_loop_takes_what_is_idle() -> None:
    async def work(sim: Simulation) -> None:
        (connection,) = sim.fill(1)
        assert sim.pool.checkout().connection is connection

    with Simulation(max_connections=1) as sim:
        asyncio.run(work(sim))


def test_a_checkout_that_blocks_the_loop_opens_one_connection_for_a_second_at_most() -> None:
    async def work(sim: Simulation) -> None:
        sim.server.accepting.clear()
        sim.clock.run()
        begun = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            sim.pool.checkout()
        assert 0.9 < time.monotonic() - begun < 5
        sim.server.accepting.set()
        await soon(lambda: sim.pool.stats().idle == 1)

    with Simulation(start=in_background, timeout=60) as sim:
        asyncio.run(work(sim))
