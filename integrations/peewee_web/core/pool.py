"""A bounded pool of physical connections: fair, self-healing, and never a stall.

What to do is decided in ``ledger.py``, under the lock; it is done here and in ``connector.py``, outside. A checkout
that can't be served at once goes on in ``checkout.py``. The pool knows DB-API connections through a ``Driver``, and
neither Peewee nor the web.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from . import fork
from .checkout import RECLAIM_EVERY, Checkout
from .connector import Connector, start_thread
from .drivers import IDLE, Driver, Status, driver_for
from .lease import Lease, PooledConnection
from .ledger import Ledger, Refusal
from .options import PoolOptions
from .places import Place, caller, described
from .resetting import clean
from .stats import PoolStats
from .waiting import Waiter, may_block_for
from .watchdog import Watchdog

__all__ = ["Lease", "Pool", "PoolOptions", "PoolStats"]

logger = logging.getLogger("peewee_web")

# Seconds between two looks at what has been idle, or out, for too long.
_TEND_EVERY = 1.0


class Pool:
    """Connections that *open_connection* makes, lent out one at a time. All methods are thread-safe.

    *close_connection* closes one for good. *reclaim* is called, outside the lock, by whoever has to wait: it may check
    in leases whose holders are gone. *inline* makes a checkout open its connection itself, where that takes no network,
    instead of in a thread. *options* are explained in `PoolOptions`. The rest is for tests: *find_driver* gives the
    `Driver` of a connection, *clock* the monotonic seconds, *start* runs something in the background, after so many
    seconds.
    """

    def __init__(
        self,
        open_connection: Callable[[], Any],
        options: PoolOptions | None = None,
        *,
        close_connection: Callable[[Any], object] = lambda connection: connection.close(),
        reclaim: Callable[[], object] = lambda: None,
        inline: bool = False,
        find_driver: Callable[[Any], Driver] = driver_for,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None], float], None] = start_thread,
    ) -> None:
        self.reclaim = reclaim
        self.clock = clock
        self._close = close_connection
        self._new_connector = functools.partial(
            Connector,
            open_connection=open_connection,
            close_connection=close_connection,
            inline=inline,
            find_driver=find_driver,
            clock=clock,
            start=start,
            unreachable=lambda error: self.on_unreachable(error) if self.on_unreachable is not None else None,
        )
        #: Called with what a connection attempt has failed with that may succeed later, in the attempt's thread.
        self.on_unreachable: Callable[[BaseException], object] | None = None
        #: Whether connections are replaced when the server says that it only reads (`renew`).
        self.renews = True
        self._begin(PoolOptions() if options is None else options)
        self._own = fork.mark()
        fork.tell_children(self)

    def _begin(self, options: PoolOptions) -> None:
        self._tend_at = self._renew_at = -math.inf
        self.ledger = Ledger(options)
        self.connector = self._new_connector(self.ledger)

    def __repr__(self) -> str:
        return f"<Pool {self.ledger!r}>"

    @property
    def options(self) -> PoolOptions:
        return self.ledger.options

    def stats(self) -> PoolStats:
        """The figures of this moment."""
        self.notice_fork()
        return self.ledger.stats()

    # Checkout.

    def checkout(self) -> Lease:
        """A healthy connection, to be given to `checkin` exactly once.

        Takes at most the pool's ``timeout``. Raises `PoolTimeout`, `DatabaseUnavailable`, or what *open_connection*
        raises when the server refuses this client.
        """
        if not self._own[0]:
            self.notice_fork()
        place, now = caller(), self.clock()
        lease = self.ledger.take(place, now)
        if lease is not None and self.is_fresh(lease.pooled, now):
            return lease
        return Checkout(self, place, now).run(lease)

    async def checkout_async(self) -> Lease:
        """The same without blocking the event loop: it waits in the same queue, and probes in a thread of its own."""
        if not self._own[0]:
            self.notice_fork()
        place, now = caller(), self.clock()
        lease = self.ledger.take(place, now)
        if lease is not None and self.is_fresh(lease.pooled, now):
            return lease
        return await Checkout(self, place, now).run_async(lease)

    def is_fresh(self, pooled: PooledConnection, now: float) -> bool:
        """Whether *pooled* may be used as it is, without a round trip."""
        return (
            now <= pooled.fresh_until
            and now < pooled.expires
            and pooled.generation == self.ledger.generation
            and not pooled.has_news()
        )

    def is_outdated(self, pooled: PooledConnection, now: float) -> bool:
        """Whether *pooled* is to be closed, however well it is."""
        return pooled.origin.epoch != self.ledger.epoch or now >= pooled.expires

    def enqueue(self, waiter: Waiter, place: Place, *, first: bool, spare: float) -> Refusal | None:
        """Put *waiter* in the queue, and open the connections that this asks for; unless it is refused."""
        next_ = self.ledger.enqueue(waiter, place, self.clock(), first=first, spare=spare)
        if isinstance(next_, Refusal):
            return next_
        self.connector.carry_out(next_, for_caller=True)
        return None

    # Check-in.

    def checkin(self, lease: Lease) -> Status:
        """Take the connection of *lease* back, clean or closed. Returns the state it was in.

        Does not raise; a second time does nothing. Rolling back and ``reset`` take at most the pool's ``timeout``, and
        a second where an event loop stands still meanwhile.
        """
        pooled, options = lease.pooled, self.ledger.options
        status = pooled.driver.status(pooled.connection)
        if lease.failed and status is IDLE:
            status = pooled.driver.status_after_error
        claimed = False
        if status is not IDLE or lease.broken or options.reset is not None:
            self.notice_fork()
            claimed = self.ledger.claim(lease)
            if not claimed:
                return IDLE
            if status is Status.LOST:
                self.note_lost(lease)
            if lease.broken or not self._clean(lease, status, options):
                self.discard(lease)
                return status
        self.give(lease, claimed)
        return status

    def give(self, lease: Lease, claimed: bool = False) -> None:
        """Have the connection of *lease*, which is clean, serve the next. *claimed*: `Ledger.claim` said yes."""
        ledger, now = self.ledger, self.clock()
        if self.is_outdated(lease.pooled, now):
            if claimed or ledger.claim(lease):
                self.discard(lease)
            return
        waiter = ledger.give(lease, now, claimed)
        if waiter is not None:
            waiter.wake()
        elif ledger.options.max_idle == 0:
            self.close_idle()
        if now >= self._tend_at:
            self.tend(now)

    def _clean(self, lease: Lease, status: Status, options: PoolOptions) -> bool:
        try:
            return clean(lease.pooled, status, options)
        except BaseException:
            self.discard(lease)
            raise

    def discard(self, lease: Lease) -> None:
        """End *lease* and close its connection. Does not raise; a second time does nothing."""
        self.notice_fork()
        if self.ledger.strike(lease):
            self.connector.close((lease.pooled,), abruptly=lease.broken)

    def note_lost(self, lease: Lease) -> None:
        """The connection of *lease* is gone: close it at check-in, and trust none that is older without a probe."""
        self.ledger.note_lost(lease)

    def probe(self, lease: Lease, seconds: float) -> bool:
        """Whether the server answers on the connection of *lease* within *seconds*. If not, that is closed."""
        pooled = lease.pooled
        generation = self.ledger.generation  # it may be raised meanwhile, and then this probe has come too early
        watchdog = Watchdog(pooled.socket(), min(seconds, self.options.connect_timeout))
        try:
            with watchdog:
                pooled.driver.probe(pooled.connection)
        except Exception:
            self._condemn(lease, silent=watchdog.fired)
            return False
        except BaseException:
            self.discard(lease)
            raise
        self.ledger.note_passed_probe(lease, generation)
        return True

    def is_alive(self, lease: Lease) -> bool:
        """`probe`, for the time that its user may be kept waiting."""
        return self.probe(lease, may_block_for())

    def _condemn(self, lease: Lease, silent: bool) -> None:
        """Close the connection of *lease*, which was found dead; if it was *silent*, also what must be as silent."""
        condemned = self.ledger.note_failed_probe(lease, silent)
        if self.ledger.strike(lease):
            condemned.append(lease.pooled)
        self.connector.close(condemned, abruptly=True)

    def has_lent(self, lease: Lease) -> bool:
        """Whether *lease* has not ended."""
        return self.ledger.has(lease)

    def admit(self, connection: Any, *, keep: bool) -> Lease:
        """A lease on *connection*, which was opened without the pool and counts as its own, even past its limit.

        Unless *keep*, it is closed at its check-in.
        """
        now = self.clock()
        pooled = self.connector.wrap(connection, self.ledger.origin(), now)
        if not keep:
            pooled.expires = -math.inf
        return self.ledger.admit(pooled, caller(), now)

    # The whole.

    def configure(self, options: PoolOptions) -> None:
        """Go on with other *options*. Connections of before are closed, those in use when they come back."""
        self.connector.carry_out(self.ledger.configure(options, self.clock()))
        self.close_idle()

    def renew(self) -> None:
        """The server only reads: replace the connections, idle ones now, those in use when they come back.

        (A URL of several hosts, or a name that moves, leads to another.) At most once a second.
        """
        now = self.clock()
        if self.renews and now >= self._renew_at:
            self._renew_at = now + _TEND_EVERY
            self.ledger.outdate()
            self.close_idle()

    def turn_away(self, make_error: Callable[[], BaseException]) -> None:
        """Raise an error from all checkouts that wait."""
        self.connector.carry_out(self.ledger.turn_away(make_error))

    def tend(self, now: float) -> None:
        """Close what has been idle for too long and report what has been out for too long, once a second at most.

        There is no thread for this: it rides on checkouts that wait, and on check-ins.
        """
        if now < self._tend_at:
            return
        self.notice_fork()
        self._tend_at = now + _TEND_EVERY
        for lease in self.ledger.overdue(now):
            logger.warning(
                "a connection has been out for %.1f s, which is more than leak_after; it was taken at %s",
                now - lease.taken,
                described(lease.place),
            )
        self.connector.close(self.ledger.aged(now))

    def warm(self) -> int:
        """Open connections until there are ``min_connections``. Returns how many there are. Raises as `checkout`."""
        leases: list[Lease] = []
        try:
            while self.ledger.size < self.options.min_connections:
                leases.append(self.checkout())  # takes the idle ones first, and then opens another
        finally:
            for lease in leases:
                self.checkin(lease)
        return self.ledger.size

    def close(self, timeout: float = 0.0) -> int:
        """Close the idle connections, and each of the others when it comes back, which may take *timeout* seconds.

        Returns how many are out still; they are closed at their check-in. For the end of the process, or a change of
        the connection's parameters: a checkout that comes later opens a new connection.
        """
        self.notice_fork()
        deadline = self.clock() + timeout
        drained = self.ledger.outdate()
        self.reclaim()
        self.close_idle()
        while not drained.wait(max(0.0, min(deadline - self.clock(), RECLAIM_EVERY))) and self.clock() < deadline:
            self.reclaim()
        self.close_idle()  # what work under way has opened and given back meanwhile
        return self.ledger.outdated()

    def close_idle(self) -> int:
        """Close the connections that nobody uses. Returns how many."""
        self.notice_fork()
        idle = self.ledger.clear()
        self.connector.close(idle)
        return len(idle)

    def evict(self, held_for: float = 0.0) -> int:
        """Close connections that have been out for *held_for* seconds, under their users' hands. Returns how many."""
        self.notice_fork()
        evicted = self.ledger.evict(self.clock(), held_for)
        self.connector.close([lease.pooled for lease in evicted], abruptly=True)
        return len(evicted)

    def forget(self) -> None:
        """Start anew without closing anything; but what is being opened now is closed when it is there."""
        self.notice_fork()
        with fork.lock:
            self.connector.retire()
            self._begin(self.options)

    def notice_fork(self) -> None:
        """Start anew if this is a forked child: all connections are the parent's.

        Python calls it in each child that it makes; what may be the first to happen in another one calls it as well.
        """
        if self._own[0]:
            return
        with fork.lock:
            if self._own[0]:
                return
            idle, leases = self.ledger.everything()
            self._begin(self.options)
            fork.leave_to_parent(idle, leases, self._close)
            self._own[0] = 1  # last: whoever sees it goes on
