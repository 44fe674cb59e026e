"""A checkout that found no idle connection, or one that it must not trust: what it waits for, and for how long.

The pool decides who gets what; here is what happens meanwhile, for a thread and for a coroutine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import DatabaseUnavailable, NoConnection, PoolTimeout
from .faults import first_line, is_outage
from .lease import Lease
from .places import Place, described
from .waiting import TaskWaiter, ThreadWaiter, Waiter, may_block_for

if TYPE_CHECKING:
    from .ledger import Refusal
    from .pool import Pool

# The share of the time left that a probe may take: the rest is for opening another in place of a silent one.
_PROBE_SHARE = 0.5
# Seconds after which a waiting thread looks whether a finalizer has left a connection, as finalizers can't wake it.
RECLAIM_EVERY = 1.0


class Checkout:
    """One checkout, from *now* on. It may take the pool's ``timeout``."""

    def __init__(self, pool: Pool, place: Place, now: float) -> None:
        self._pool = pool
        self._place = place
        self._begun = now
        self._deadline = now + pool.options.patience
        self._patient = pool.options.timeout is not None
        self._max_waiting = pool.options.max_waiting if self._patient else 0
        self._on_loop = False
        #: Whether it has had its turn, and got a dead connection.
        self._was_first = False

    def run(self, lease: Lease | None) -> Lease:
        """*lease*, or the first that is healthy."""
        if may_block_for() < math.inf:
            self._deadline = min(self._deadline, self._begun + may_block_for())
            # Whoever could end the wait of a loop's thread is a coroutine of the same loop.
            self._on_loop, self._patient, self._max_waiting = True, False, 0
        while True:
            if lease is None:
                lease = self._wait()
            if self._may_use(lease) or (self._may_probe(lease) and self._probe(lease)):
                return lease
            lease, self._was_first = None, True

    async def run_async(self, lease: Lease | None) -> Lease:
        while True:
            if lease is None:
                lease = await self._wait_async()
            if self._may_use(lease) or (self._may_probe(lease) and await self._probe_async(lease)):
                return lease
            lease, self._was_first = None, True

    # The queue.

    def _wait(self) -> Lease:
        waiter = ThreadWaiter(self._patient)
        with self._queueing(waiter):
            while (left := self._time_left()) > 0 and not waiter.sleep(min(left, RECLAIM_EVERY)):
                self._look_again()
        return self._outcome(waiter)

    async def _wait_async(self) -> Lease:
        waiter = TaskWaiter(self._patient)
        with self._queueing(waiter):
            while (left := self._time_left()) > 0 and not await waiter.sleep(min(left, RECLAIM_EVERY)):
                self._look_again()
        return self._outcome(waiter)

    @contextmanager
    def _queueing(self, waiter: Waiter) -> Iterator[None]:
        pool, begun = self._pool, self._pool.clock()
        self._look_around()
        spare = math.inf if self._max_waiting is None else self._max_waiting
        try:
            refusal = pool.enqueue(waiter, self._place, first=self._was_first, spare=spare)
            if refusal is not None:
                raise self._refused(refusal) from pool.ledger.last_error
            yield
        except NoConnection:  # it was not let in
            raise
        except BaseException:  # such as gevent's Timeout, or a cancelled coroutine
            pool.ledger.leave(waiter, pool.clock() - begun)
            if waiter.lease is not None:
                pool.give(waiter.lease)
            raise
        pool.ledger.leave(waiter, pool.clock() - begun)

    def _look_around(self) -> None:
        """Take back what finalizers have left, and report what has been out for too long."""
        self._pool.reclaim()
        self._pool.tend(self._pool.clock())

    def _look_again(self) -> None:
        self._look_around()
        self._pool.connector.resume()

    def _outcome(self, waiter: Waiter) -> Lease:
        if waiter.lease is not None:
            return waiter.lease
        if waiter.error is not None:
            raise self._explained(waiter.error)
        pool = self._pool
        pool.ledger.note_timeout()
        seconds = f"{pool.clock() - self._begun:.1f} s"
        if pool.ledger.is_exhausted():
            raise PoolTimeout(f"no connection became free in {seconds} ({self._figures()})") from pool.ledger.last_error
        raise self._unavailable(f"no connection could be opened in {seconds}") from pool.ledger.last_error

    def _refused(self, refusal: Refusal) -> NoConnection:
        if refusal.outage is not None:
            return self._unavailable("no connection to the database")
        return PoolTimeout(f"no connection is free, {self._why_at_once()} ({self._figures()})")

    def _unavailable(self, what: str) -> DatabaseUnavailable:
        outage = self._pool.ledger.outage
        if outage is None or outage.error is None:
            return DatabaseUnavailable(f"{what} ({self._figures()})")
        now = self._pool.clock()
        next_in = max(0.0, outage.next_attempt - now)
        error = DatabaseUnavailable(
            f"{what}: {first_line(outage.error)} (for {now - outage.since:.1f} s now, in which "
            f"{_times(outage.attempts, 'attempt')} failed; the next may begin in {next_in:.1f} s)"
        )
        error.retry_after = next_in
        return error

    # A connection that must not be used as it is.

    def _may_use(self, lease: Lease) -> bool:
        # As of the moment when it was lent: a connection just opened serves once, however short its life.
        return self._pool.is_fresh(lease.pooled, lease.taken)

    def _may_probe(self, lease: Lease) -> bool:
        """Whether a probe can save the connection; if not, it is closed."""
        pooled = lease.pooled
        # A probe that could not be ended in time is not begun.
        hopeless = pooled.driver.network and pooled.fileno is None
        if hopeless or self._pool.is_outdated(pooled, lease.taken) or self._was_idle_for_too_long(lease):
            self._pool.discard(lease)
            return False
        return True

    def _was_idle_for_too_long(self, lease: Lease) -> bool:
        options = self._pool.options
        return not options.min_connections and lease.taken - lease.pooled.idle_since > options.max_idle_seconds

    def _probe(self, lease: Lease) -> bool:
        return self._pool.probe(lease, self._time_left() * _PROBE_SHARE)

    async def _probe_async(self, lease: Lease) -> bool:
        """In a thread, which can't be cancelled with the coroutine: whoever is last checks the lease in.

        (Not in one of the event loop's: they may all be waiting for this connection.)
        """
        waiter = TaskWaiter()
        passed = done = abandoned = False

        def probe() -> None:
            nonlocal passed, done
            try:
                passed = self._probe(lease)
            finally:
                done = True
                if abandoned:
                    self._pool.checkin(lease)
                waiter.wake()

        try:
            self._pool.connector.start(probe)
            await waiter.sleep()
        except BaseException:
            abandoned = True
            if done:
                self._pool.checkin(lease)
            raise
        return passed

    # What it says of itself.

    def _time_left(self) -> float:
        return self._deadline - self._pool.clock()

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, NoConnection) or not is_outage(error):
            return error
        unavailable = self._unavailable("no connection to the database")
        unavailable.__cause__ = error
        return unavailable

    def _why_at_once(self) -> str:
        options = self._pool.options
        if options.timeout is None:
            return "and with timeout=None the pool waits for none"
        if self._on_loop:
            return "and an event loop must not wait for one"
        return f"and max_waiting={self._max_waiting} are waiting already"

    def _figures(self) -> str:
        """Such as "8 of 8 in use, 0 idle, 14 waiting; the oldest has been out 31.2 s, taken at notes/views.py:41"."""
        stats, oldest = self._pool.stats(), self._pool.ledger.oldest_lease()
        limit = "" if stats.limit is None else f" of {stats.limit}"
        figures = f"{stats.in_use}{limit} in use, {stats.idle} idle, {stats.waiting} waiting"
        if oldest is None:
            return figures
        age = self._pool.clock() - oldest.taken
        return f"{figures}; the oldest has been out {age:.1f} s, taken at {described(oldest.place)}"


def _times(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
