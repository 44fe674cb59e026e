"""The pool's books: who waits for a connection, who gets it, and when to open another.

Together with ``holdings.py`` every decision of the pool is taken here. Each method takes the lock, changes lists and
counters, and returns what its caller has to do about it: open, close, wake. Nothing here waits, and nothing here may
reach the network.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .holdings import Holdings
from .lease import Lease, PooledConnection
from .options import PoolOptions
from .outage import Outage
from .places import Place
from .stats import PoolStats
from .waiting import Waiter


class Next(NamedTuple):
    """What is to be done, outside the lock."""

    waiters: Sequence[Waiter]
    """Whom to wake."""
    attempts: int
    """How many connection attempts to begin. They are counted already."""
    delay: float
    """Seconds to wait before them."""


class Refusal(NamedTuple):
    """Why a checkout may not wait."""

    outage: Outage | None
    """Because no connection can be opened; else because too many wait already."""


class Ledger(Holdings):
    """One pool's books. Thread-safe."""

    def __init__(self, options: PoolOptions) -> None:
        super().__init__(options)
        #: Who came first is first. No one is here while a connection is idle.
        self._waiters: OrderedDict[Waiter, Place] = OrderedDict()
        #: Connection attempts under way, or put off. They count in the size.
        self._opening = 0
        #: What the latest connection attempt failed with, if it did.
        self.last_error: BaseException | None = None
        self.outage: Outage | None = None
        #: When a connection last came back from its user, fit for another.
        self._last_given = -math.inf

    def __repr__(self) -> str:
        limit = "" if math.isinf(self.options.limit) else f"/{self.options.limit}"
        away = "" if self.outage is None else ", the server is away"
        return f"{len(self._leases)}{limit} in use, {len(self._idle)} idle, {len(self._waiters)} waiting{away}"

    def stats(self) -> PoolStats:
        with self._lock:
            return PoolStats(
                limit=self.options.max_connections or None,
                size=self._size,
                idle=len(self._idle),
                in_use=len(self._leases),
                waiting=len(self._waiters),
                generation=self.generation,
                **vars(self._counts),
            )

    def configure(self, options: PoolOptions, now: float) -> Next:
        """Go by other *options*, with other connections. There may be room now for those who wait."""
        with self._lock:
            self.options = options
            self.outage = None  # what is to be reached may be another server
            self._outdate()
            return self._next(now)

    def is_exhausted(self) -> bool:
        """Whether there are all connections that there may be, so that no other can be opened."""
        return self._size - self._opening >= self.options.limit

    # Checkout.

    def enqueue(self, waiter: Waiter, place: Place, now: float, *, first: bool, spare: float) -> Next | Refusal:
        """Put *waiter* in the queue, or give it what is idle.

        *spare* is how many may wait for a connection that is in use, besides those that wait for one to be opened.
        Who comes *first* has had its turn before, and got nothing of use.
        """
        with self._lock:
            if self._idle:
                waiter.lease = self._lend(self._idle.pop(), place, now)
                return Next((waiter,), 0, 0.0)
            if not first and len(self._leases) + len(self._waiters) >= self.options.limit + spare:
                return Refusal(None)
            if self.outage is not None and not self._has_prospects(waiter, self.outage, now):
                return Refusal(self.outage)
            if self.options.fail_fast_after == 0:
                waiter.patient = False
            self._waiters[waiter] = place
            if first:
                self._waiters.move_to_end(waiter, last=False)
            return self._next(now)

    def _has_prospects(self, waiter: Waiter, outage: Outage, now: float) -> bool:
        """Whether *waiter*, which comes amid *outage*, has reason to wait: for the server, or for one attempt."""
        limit = self.options.fail_fast_after
        if limit is not None and now - max(outage.since, self._last_given) >= limit:
            # One caller makes the attempt that is due. The others wait for its result only if the last is long ago.
            waiter.patient = False
            return now >= outage.next_attempt and (self._opening == 0 or not outage.is_recent(now))
        return waiter.patient or now >= outage.next_attempt

    def leave(self, waiter: Waiter, waited: float) -> None:
        """Take *waiter* out of the queue, if it is still there. Its ``lease`` and ``error`` are final then."""
        with self._lock:
            self._waiters.pop(waiter, None)
            self._counts.waits += 1
            self._counts.wait_seconds += waited

    def note_timeout(self) -> None:
        with self._lock:
            self._counts.timeouts += 1

    # Check-in.

    def give(self, lease: Lease, now: float, claimed: bool) -> Waiter | None:
        """End *lease*, whose connection is fit for another use. Who gets it is returned, to be woken.

        Nothing happens to a lease that has ended, or that somebody else than the caller has *claimed*.
        """
        with self._lock:
            if lease not in self._leases or lease.ending is not claimed:
                return None
            self._leases.remove(lease)
            pooled = lease.pooled
            pooled.fresh_until = now + pooled.probe_after
            self._last_given = now
            return self._offer(pooled, now)

    def _offer(self, pooled: PooledConnection, now: float) -> Waiter | None:
        pooled.idle_since = now
        if not self._waiters:
            self._idle.append(pooled)
            return None
        waiter, place = self._waiters.popitem(last=False)
        waiter.lease = self._lend(pooled, place, now)
        return waiter

    # Connections that come and go.

    def opened(self, pooled: PooledConnection, now: float) -> tuple[bool, Next]:
        """A connection attempt has succeeded: *pooled* goes to whoever is first in the queue by now.

        False: it is to be closed. It comes too late for a pool that has been closed or configured anew meanwhile, or
        nobody waits for it and ``clear()`` would have taken it out.
        """
        with self._lock:
            self._opening -= 1
            self._counts.created += 1
            self.last_error = self.outage = None
            origin = pooled.origin
            wanted = origin.epoch == self.epoch and (bool(self._waiters) or origin.clearances == self._clearances)
            waiter = self._offer(pooled, now) if wanted else None
            return wanted, self._next(now, () if waiter is None else (waiter,))

    def refused(self, error: BaseException, now: float) -> Next:
        """A connection attempt has failed, and so would others: whoever is first in the queue is told."""
        with self._lock:
            self._note_failure(error)
            self.outage = None
            return self._next(now, self._tell(list(self._waiters)[:1], error))

    def unreachable(self, error: BaseException, now: float) -> Next:
        """A connection attempt has failed, and another may succeed later: who is not patient is told."""
        with self._lock:
            self._note_failure(error)
            if self.outage is None:
                self.outage = Outage(now)
                self.generation += 1
            self.outage.note_failure(error, now)
            return self._next(now, self._tell([waiter for waiter in self._waiters if not waiter.patient], error))

    def broken_off(self, now: float) -> Next:
        """A connection attempt has ended for reasons of its caller."""
        with self._lock:
            self._call_off()
            return self._next(now)

    def turn_away(self, make_error: Callable[[], BaseException]) -> Next:
        """Tell all who wait that they wait in vain: each is raised an error of his own."""
        with self._lock:
            waiters = list(self._waiters)
            for waiter in waiters:
                self._tell([waiter], make_error())
            return Next(waiters, 0, 0.0)

    def is_full(self) -> bool:
        """Whether a checkout would have to wait for somebody's connection."""
        return not self._idle and self._size >= self.options.limit

    @property
    def in_use(self) -> int:
        return len(self._leases)

    def _note_failure(self, error: BaseException) -> None:
        self._call_off()
        self._counts.connect_errors += 1
        self.last_error = error

    def _tell(self, waiters: Sequence[Waiter], error: BaseException) -> Sequence[Waiter]:
        for waiter in waiters:
            del self._waiters[waiter]
            waiter.error = error
        return waiters

    def is_attempt_wanted(self) -> bool:
        """Whether an attempt that was put off is to begin. If not, it is no longer counted."""
        with self._lock:
            if not self._waiters:
                self._call_off()
                return False
            return True

    def call_off(self) -> None:
        """An attempt could not be begun."""
        with self._lock:
            self._call_off()

    def resume(self, now: float) -> Next:
        """What waiters need, looked at anew."""
        with self._lock:
            return self._next(now)

    def _call_off(self) -> None:
        self._opening -= 1
        self._size -= 1

    def closed(self, count: int, now: float) -> Next:
        """*count* connections have been closed."""
        with self._lock:
            self._size -= count
            self._counts.closed += count
            if not self._drained.is_set() and not self._outdated():
                self._drained.set()
            return self._next(now)

    def _next(self, now: float, waiters: Sequence[Waiter] = ()) -> Next:
        """Wake *waiters*, and begin the attempts that the others need: one at a time while the server is away."""
        options, delay = self.options, 0.0
        at_once = options.max_connecting
        if self.outage is not None:
            at_once, delay = 1, max(0.0, self.outage.next_attempt - now)
        free = min(at_once - self._opening, options.limit - self._size)
        wanted = max(0, int(min(len(self._waiters) - self._opening, free)))
        self._opening += wanted
        self._size += wanted
        return Next(waiters, wanted, delay)
