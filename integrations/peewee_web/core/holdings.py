"""The connections of a pool: which are idle, which are out under which lease, which are not to be trusted.

The half of the pool's books that knows nothing of waiting. Each method that is public takes the lock; nothing here
waits, and nothing here may reach the network.
"""

from __future__ import annotations

import math
import threading
from collections import deque

from .lease import Lease, Origin, PooledConnection
from .options import PoolOptions
from .places import Place
from .stats import Counts


class Holdings:
    """What one pool has. Thread-safe."""

    def __init__(self, options: PoolOptions) -> None:
        self.options = options
        self._lock = threading.Lock()
        #: The longest idle first: the newest is reused first, so that the others may grow old and be closed.
        self._idle: deque[PooledConnection] = deque()
        self._leases: set[Lease] = set()
        #: Connections open, being opened and being closed. Never more than the limit.
        self._size = 0
        #: Raised when a connection is found lost: all older ones are probed before their next use.
        self.generation = 0
        #: Raised when all connections of before are to be closed as they come back.
        self.epoch = 0
        #: How often the idle connections were taken out.
        self._clearances = 0
        #: Set when none of an earlier epoch is out any more.
        self._drained = threading.Event()
        self._counts = Counts()

    @property
    def size(self) -> int:
        return self._size

    def has(self, lease: Lease) -> bool:
        return lease in self._leases

    def oldest_lease(self) -> Lease | None:
        """The lease that has been out for longest."""
        with self._lock:
            return min(self._leases, key=lambda lease: lease.taken, default=None)

    def everything(self) -> tuple[list[PooledConnection], list[Lease]]:
        """What is idle, and what is out. Takes no lock: in a forked child it may be held for ever."""
        return list(self._idle), list(self._leases)

    # Leases.

    def take(self, place: Place, now: float) -> Lease | None:
        """A lease on the connection that was idle for the shortest time."""
        with self._lock:
            return self._lend(self._idle.pop(), place, now) if self._idle else None

    def admit(self, pooled: PooledConnection, place: Place, now: float) -> Lease:
        """A lease on a connection that was opened elsewhere, and is in use there already."""
        with self._lock:
            self._size += 1
            return self._lend(pooled, place, now)

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

    def evict(self, now: float, held_for: float) -> list[Lease]:
        """End, without asking their holders, the leases that have been out for *held_for* seconds."""
        with self._lock:
            evicted = [lease for lease in self._leases if now - lease.taken >= held_for]
            self._leases.difference_update(evicted)
        return evicted

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

    def _lend(self, pooled: PooledConnection, place: Place, now: float) -> Lease:
        lease = Lease(pooled, now, place)
        self._leases.add(lease)
        self._counts.checkouts += 1
        return lease

    # Connections that are too old, or no longer wanted.

    def origin(self) -> Origin:
        """What a connection attempt that begins now has to remember."""
        with self._lock:
            return Origin(self.epoch, self.generation, self._clearances)

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

    # Connections that are found lost.

    def note_lost(self, lease: Lease) -> None:
        """The connection of *lease* broke in use: none that is older is trusted without a probe."""
        with self._lock:
            self._suspect(lease)

    def note_passed_probe(self, lease: Lease, generation: int) -> None:
        """*lease* was found alive after the pool had got to *generation*."""
        with self._lock:
            self._counts.probes += 1
            lease.pooled.generation = generation
            lease.pooled.fresh_until = math.inf

    def note_failed_probe(self, lease: Lease, silent: bool) -> list[PooledConnection]:
        """*lease* was found dead. If it was *silent*, so will be all that have been idle for longer: close them too.

        (The probe of each would take as long again.)
        """
        condemned: list[PooledConnection] = []
        with self._lock:
            self._counts.probes += 1
            self._counts.probe_failures += 1
            self._suspect(lease)
            while silent and self._idle and self._idle[0].idle_since <= lease.pooled.idle_since:
                condemned.append(self._idle.popleft())
        return condemned

    def _suspect(self, lost: Lease) -> None:
        if lost.broken:
            return
        lost.broken = True
        self._counts.lost += 1
        if lost.pooled.generation == self.generation:  # else the others are suspect already
            self.generation += 1
