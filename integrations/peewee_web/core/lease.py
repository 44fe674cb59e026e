"""A physical connection as the pool knows it, and the lease under which it is out."""

from __future__ import annotations

import functools
import math
import random
import select
import sys
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from .drivers import Driver
from .options import PoolOptions
from .places import Place, described

# Up to this share of `max_lifetime` is taken off at random: connections opened together don't go together.
_LIFETIME_JITTER = 0.05


class Origin(NamedTuple):
    """How far a pool's books were when a connection attempt began."""

    epoch: int
    generation: int
    clearances: int


class PooledConnection:
    """A physical connection and what the pool knows of it. Times are monotonic seconds."""

    __slots__ = (
        "connection",
        "driver",
        "expires",
        "fileno",
        "fresh_until",
        "generation",
        "has_news",
        "idle_since",
        "origin",
        "probe_after",
    )

    def __init__(self, connection: Any, driver: Driver, options: PoolOptions, origin: Origin, now: float) -> None:
        self.connection = connection
        self.driver = driver
        self.fileno = driver.fileno(connection)
        #: Whether the server has said something, or hung up, while nobody listened. Costs no round trip.
        self.has_news = _poller(self.fileno)
        self.expires = now + options.lifetime * (1 - _LIFETIME_JITTER * random.random())
        self.origin = origin
        #: The ledger's when it was last known to be alive.
        self.generation = origin.generation
        #: Seconds for which it is trusted after a use, and until when that is.
        self.probe_after = math.inf
        if driver.network:
            probe_after = math.inf if options.probe_after is None else options.probe_after
            self.probe_after = min(probe_after, options.max_idle_seconds)
        self.fresh_until = now + self.probe_after
        self.idle_since = now

    def socket(self) -> int | None:
        """The descriptor, as long as it is this connection's.

        A driver that finds its connection lost may close the socket itself, and the system gives the number to whoever
        opens a file next.
        """
        return self.fileno if self.driver.fileno(self.connection) == self.fileno else None


class Holder(Protocol):
    """Who keeps the connection of a lease while it is out."""

    def lose_to_parent(self) -> bool:
        """Let go of the connection, without a word to the server: this is a forked child, and it is the parent's.

        Returns whether the holder is here, and so was not amid using it.
        """


class Lease:
    """One connection checked out of a pool: by whom, and since when (monotonic seconds)."""

    __slots__ = (
        "broken",
        "connection",
        "ending",
        "failed",
        "has_state",
        "holder",
        "place",
        "pooled",
        "reported",
        "taken",
    )

    def __init__(self, pooled: PooledConnection, taken: float, place: Place) -> None:
        self.pooled = pooled
        self.connection = pooled.connection
        self.taken = taken
        self.place = place
        #: Set by whoever finds the connection unfit for another use: it is closed at check-in.
        self.broken = False
        #: Set when the session has, or may have, something that later statements rely on.
        self.has_state = False
        #: Set when a statement failed. (A MySQL server says nothing of the transaction then, which may be open.)
        self.failed = False
        self.ending = False
        self.reported = False
        self.holder: weakref.ref[Holder] | None = None

    def __repr__(self) -> str:
        return f"<Lease taken at {described(self.place)}{', broken' if self.broken else ''}>"


def _poller(fileno: int | None) -> Callable[[], object]:
    """A function that tells whether *fileno* can be read from, as a true or false value. It does not wait."""
    if fileno is None:
        return _no_news
    poll = _system_poll()()
    poll.register(fileno, select.POLLIN)  # a hang-up and a closed number are reported unasked
    return functools.partial(poll.poll, 0)


def _no_news() -> bool:
    return False


def _system_poll() -> Any:
    """The kernel's ``poll``. What gevent and eventlet put in its place goes through their event loop, even for 0 s."""
    if "gevent.monkey" in sys.modules:
        return sys.modules["gevent.monkey"].get_original("select", "poll")
    if "eventlet.patcher" in sys.modules:
        return sys.modules["eventlet.patcher"].original("select").poll
    return select.poll
