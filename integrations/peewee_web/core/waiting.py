"""A place in the pool's queue, for a thread, a greenlet or a coroutine."""

from __future__ import annotations

import asyncio
import math
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .pool import Lease


class Waiter(Protocol):
    """One checkout that could not be served at once. The pool sets ``lease`` or ``error``, once, and calls ``wake``."""

    lease: Lease | None
    error: BaseException | None
    patient: bool
    """Whether it waits on when a connection attempt has failed, for the server to come back."""

    def wake(self) -> None:
        """Called outside the pool's lock. Never raises: who no longer waits looks at ``lease`` when he leaves."""


class ThreadWaiter:
    """Parks the calling thread, or greenlet: the lock is made while gevent's patches are in force, if they are."""

    __slots__ = ("_parked", "error", "lease", "patient")

    def __init__(self, patient: bool = True) -> None:
        self.patient = patient
        self.lease: Lease | None = None
        self.error: BaseException | None = None
        self._parked = threading.Lock()
        self._parked.acquire()

    def sleep(self, seconds: float) -> bool:
        """Until woken, or until *seconds* have passed. Returns whether woken."""
        return self._parked.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))

    def wake(self) -> None:
        self._parked.release()


class TaskWaiter:
    """Suspends the calling coroutine. Woken from any thread."""

    __slots__ = ("_loop", "_woken", "error", "lease", "patient")

    def __init__(self, patient: bool = True) -> None:
        self.patient = patient
        self.lease: Lease | None = None
        self.error: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    async def sleep(self, seconds: float | None = None) -> bool:
        """Until woken, or until *seconds* have passed. Returns whether woken."""
        # Not `wait_for`, which before Python 3.12 swallows a cancellation that comes with the wake-up.
        await asyncio.wait((self._woken,), timeout=seconds)
        return self._woken.done()

    def wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its coroutines with it
            self._loop.call_soon_threadsafe(self._woken.set_result, None)


# Seconds for which an event loop may be made to stand still, by what it can't await: a lazy checkout, a check-in.
_LOOP_PATIENCE = 1.0


def may_block_for() -> float:
    """Seconds: no end of them, unless the calling thread runs an asyncio event loop."""
    # The one that returns None, documented for event loop authors: an exception costs as much as a checkout.
    return math.inf if asyncio._get_running_loop() is None else _LOOP_PATIENCE
