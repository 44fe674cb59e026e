"""The pool's books: which connections there are, who has them, who waits. Every decision of the pool is taken here.

Each method takes the lock, changes lists and counters, and returns what its caller has to do about it: open, close,
wake. Nothing here waits, and nothing here may reach the network.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import NamedTuple

from .lease import Lease, Origin, PooledConnection
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


class Ledger:
    """One pool's books. Thread-safe."""

    def __init__(self, options: PoolOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        #: The longest idle first: the newest is reused first, so that the others may grow old and be closed.
        self._idle: deque[PooledConnection] = deque()
        self._leases: set[Lease] = set()
        #: Who came first is first. No one is here while a connection is idle.
        self._waiters: OrderedDict[Waiter, Place] = OrderedDict()
        self._opening = 0
        #: Connections open, being opened and being closed. Never more than the limit.
        self._size = 0
        #: Raised when a connection is found lost: all older ones are probed before their next use.
        self.generation = 0
        #: Raised when all connections of before are to be closed as they come back.
        self.epoch = 0
        #: How often the idle connections were taken out.
        self._clearances = 0
        #: Set when none of those is out any more.
        self._drained = threading.Event()
        #: What the latest connection attempt failed with, if it did.
        self.last_error: BaseException | None = None
        self.outage: Outage | None = None
        #: When a connection last came back from its user, fit for another.
        self._last_given = -math.inf
        self._checkouts = self._waits = self._timeouts = self._created = self._closed = 0
        self._probes = self._probe_failures = self._lost = self._connect_errors = 0
        self._wait_seconds = 0.0

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
                checkouts=self._checkouts,
                waits=self._waits,
                wait_seconds=self._wait_seconds,
                timeouts=self._timeouts,
                created=self._created,
                closed=self._closed,
                probes=self._probes,
                probe_failures=self._probe_failures,
                lost=self._lost,
                connect_errors=self._connect_errors,
            )

    def configure(self, options: PoolOptions, now: float) -> Next:
        """Go by other *options*, with other connections. There may be room now for those who wait."""
        with self._lock:
            self.options = options
            self.outage = None  # what is to be reached may be another server
            self._outdate()
            return self._next(now)

    def has(self, lease: Lease) -> bool:
        return lease in self._leases

    @property
    def size(self) -> int:
        return self._size

    def is_exhausted(self) -> bool:
        """Whether there are all connections that there may be, so that no other can be opened."""
        return self._size - self._opening >= self.options.limit

    def oldest_lease(self) -> Lease | None:
        """The lease that has been out for longest."""
        with self._lock:
            return min(self._leases, key=lambda lease: lease.taken, default=None)

    # Checkout.

    def take(self, place: Place, now: float) -> Lease | None:
        """A lease on the connection that was idle for the shortest time."""
        with self._lock:
            return self._lend(self._idle.pop(), place, now) if self._idle else None

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
            self._waits += 1
            self._wait_seconds += waited

    def note_timeout(self) -> None:
        with self._lock:
            self._timeouts += 1

    def _lend(self, pooled: PooledConnection, place: Place, now: float) -> Lease:
        lease = Lease(pooled, now, place)
        self._leases.add(lease)
        self._checkouts += 1
        return lease

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

    def claim(self, lease: Lease) -> bool:
        """Whether the caller is the one who ends *lease*, which is for one only."""
        with self._lock:
            if lease.ending or lease not in self._leases:
                return False
            lease.ending = True
            return True

    def strike(self, lease: Lease) -> bool:
        """End *lease*, whose connection is to be closed. False if it had ended already."""
        with self._lock:
            if lease not in self._leases:
                return False
            self._leases.remove(lease)
            return True

    def _offer(self, pooled: PooledConnection, now: float) -> Waiter | None:
        pooled.idle_since = now
        if not self._waiters:
            self._idle.append(pooled)
            return None
        waiter, place = self._waiters.popitem(last=False)
        waiter.lease = self._lend(pooled, place, now)
        return waiter

    # Connections that come and go.

    def origin(self) -> Origin:
        """What a connection attempt that begins now has to remember."""
        with self._lock:
            return Origin(self.epoch, self.generation, self._clearances)

    def opened(self, pooled: PooledConnection, now: float) -> tuple[bool, Next]:
        """A connection attempt has succeeded: *pooled* goes to whoever is first in the queue by now.

        False: it is to be closed. It comes too late for a pool that has been closed or configured anew meanwhile, or
        nobody waits for it and ``clear()`` would have taken it out.
        """
        with self._lock:
            self._opening -= 1
            self._created += 1
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

    def _note_failure(self, error: BaseException) -> None:
        self._call_off()
        self._connect_errors += 1
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
            self._closed += count
            if not self._drained.is_set() and not self._outdated():
                self._drained.set()
            return self._next(now)

    def admit(self, pooled: PooledConnection, place: Place, now: float) -> Lease:
        """A lease on a connection that was opened elsewhere, and is in use there already."""
        with self._lock:
            self._size += 1
            return self._lend(pooled, place, now)

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

    # Connections that are found lost.

    def note_lost(self, lease: Lease) -> None:
        """The connection of *lease* broke in use: none that is older is trusted without a probe."""
        with self._lock:
            self._suspect(lease)

    def note_passed_probe(self, lease: Lease, generation: int) -> None:
        """*lease* was found alive after the ledger had got to *generation*."""
        with self._lock:
            self._probes += 1
            lease.pooled.generation = generation
            lease.pooled.fresh_until = math.inf

    def note_failed_probe(self, lease: Lease, silent: bool) -> list[PooledConnection]:
        """*lease* was found dead. If it was *silent*, so will be all that have been idle for longer: close them too.

        (The probe of each would take as long again.)
        """
        condemned: list[PooledConnection] = []
        with self._lock:
            self._probes += 1
            self._probe_failures += 1
            self._suspect(lease)
            while silent and self._idle and self._idle[0].idle_since <= lease.pooled.idle_since:
                condemned.append(self._idle.popleft())
        return condemned

    def _suspect(self, lost: Lease) -> None:
        if lost.broken:
            return
        lost.broken = True
        self._lost += 1
        if lost.pooled.generation == self.generation:  # else the others are suspect already
            self.generation += 1

    # Housekeeping.

    def aged(self, now: float) -> list[PooledConnection]:
        """Take out what is past its life, or has been idle for too long; but ``min_connections`` stay."""
        aged: list[PooledConnection] = []
        with self._lock:
            while self._idle and self._size - len(aged) > self.options.min_connections:
                longest = self._idle[0]
                if now < longest.expires and now - longest.idle_since <= self.options.max_idle_seconds:
                    break
                aged.append(self._idle.popleft())
        return aged

    def overdue(self, now: float) -> list[Lease]:
        """Leases that have been out for longer than ``leak_after``; each is named once."""
        limit = self.options.leak_after
        if limit is None:
            return []
        with self._lock:
            overdue = [lease for lease in self._leases if not lease.reported and now - lease.taken > limit]
            for lease in overdue:
                lease.reported = True
        return overdue

    def clear(self) -> list[PooledConnection]:
        """Take out all idle connections. What is being opened and has nobody who waits for it is none later."""
        with self._lock:
            self._clearances += 1
            idle = list(self._idle)
            self._idle.clear()
        return idle

    def outdate(self) -> threading.Event:
        """Have every connection of now closed when it comes back. The event tells that none is out any more."""
        with self._lock:
            self._outdate()
            if self._outdated():
                self._drained.clear()
            else:
                self._drained.set()
            return self._drained

    def _outdate(self) -> None:
        self.epoch += 1
        self.generation += 1  # so that none is handed out without a look at its epoch

    def outdated(self) -> int:
        """How many connections are out that ``outdate()`` has doomed."""
        with self._lock:
            return self._outdated()

    def _outdated(self) -> int:
        return sum(lease.pooled.origin.epoch != self.epoch for lease in self._leases)

    def evict(self, now: float, held_for: float) -> list[Lease]:
        """End, without asking their holders, the leases that have been out for *held_for* seconds."""
        with self._lock:
            evicted = [lease for lease in self._leases if now - lease.taken >= held_for]
            self._leases.difference_update(evicted)
        return evicted

    def everything(self) -> tuple[list[PooledConnection], list[Lease]]:
        """What is idle, and what is out. Takes no lock: in a forked child it may be held for ever."""
        return list(self._idle), list(self._leases)
