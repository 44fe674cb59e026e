"""The same on event loops: one whose coroutines await their connections, and one whose coroutines block it."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peewee_web
from peewee_web import Databases
from tests.stress.books import Fate, Heartbeat, Planned
from tests.stress.workload import Workload

Request = Callable[[random.Random], Coroutine[Any, Any, None]]


class Coroutines:
    """The requests of an asynchronous app."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._books = workload.books
        self._databases = Databases(workload.database)
        self.awaiting: dict[Request, int] = {
            self.read: 4,
            self.write_in_an_atomic_scope: 4,
            self.raise_in_an_atomic_scope: 2,
            self.leave_a_session_open: 2,
            self.be_cancelled: 4,
        }
        self.blocking: dict[Request, int] = {self.read_at_once: 4, self.write_at_once: 2}

    async def read(self, dice: random.Random) -> None:
        async with self._databases.scope(lazy=False):
            await asyncio.to_thread(self._workload.echo)
            await asyncio.sleep(dice.uniform(0, 0.01))
            await asyncio.to_thread(self._workload.echo)

    async def write_in_an_atomic_scope(self, dice: random.Random) -> None:
        row = self._books.new_row()
        async with self._databases.scope(lazy=False, atomic=True):
            await asyncio.to_thread(self._workload.insert, row)
        self._books.rows[row] = Fate.COMMITTED

    async def raise_in_an_atomic_scope(self, dice: random.Random) -> None:
        async with self._databases.scope(lazy=False, atomic=True):
            await asyncio.to_thread(self._workload.insert, self._books.new_row(Fate.ABSENT))
            raise Planned

    async def leave_a_session_open(self, dice: random.Random) -> None:
        async with self._databases.scope(lazy=False):
            await asyncio.to_thread(self._workload.database.session_start)
            await asyncio.to_thread(self._workload.insert, self._books.new_row(Fate.ABSENT))

    async def be_cancelled(self, dice: random.Random) -> None:
        request = dice.choice([self.read, self.raise_in_an_atomic_scope, self.leave_a_session_open])
        try:
            await asyncio.wait_for(request(dice), dice.uniform(0, 0.02))
        except asyncio.TimeoutError:
            raise Planned from None

    async def read_at_once(self, dice: random.Random) -> None:
        async with peewee_web.scope():
            self._workload.echo()
            await asyncio.sleep(dice.uniform(0, 0.01))
            self._workload.echo()

    async def write_at_once(self, dice: random.Random) -> None:
        async with peewee_web.scope():
            self._workload.commit_a_row()


def run_loop(coroutines: list[Coroutine[Any, Any, None]], heart: Heartbeat) -> None:
    """Run *coroutines* on a loop of their own, until they end."""

    async def beat() -> None:
        while True:
            heart.beat()
            await asyncio.sleep(0.02)

    async def main() -> None:
        # Statements under way in threads must not keep those of the pool waiting, on a machine with few processors.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(4 * len(coroutines)))
        beating = asyncio.create_task(beat())
        try:
            await asyncio.gather(*coroutines)
        finally:
            beating.cancel()

    asyncio.run(main())


def loop_thread(name: str, coroutines: list[Coroutine[Any, Any, None]], heart: Heartbeat) -> threading.Thread:
    return threading.Thread(target=run_loop, args=(coroutines, heart), name=name, daemon=True)
