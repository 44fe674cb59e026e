"""A look over the pool's shoulder: how long each checkout and check-in takes, and what is lent."""

from __future__ import annotations

import math
import os
import socket
import sys
import threading
from typing import Any, NamedTuple

from peewee_web.core.drivers import Status
from peewee_web.core.lease import Lease, PooledConnection
from peewee_web.core.pool import Pool
from peewee_web.core.waiting import may_block_for
from tests.stress.books import Books, Heartbeat, Timer

# The kernel's linux/tcp.h, struct tcp_info: tcpi_state is its first byte; behind eight bytes, 24 numbers of 32 bits and
# three of 64 bits comes tcpi_bytes_received. Of tcp_states.h: ESTABLISHED.
_BYTES_RECEIVED = slice(8 + 24 * 4 + 3 * 8, 8 + 24 * 4 + 4 * 8)
_ESTABLISHED = 1


class Lending:
    """Watches *pool*, whoever asks it for a connection. Thread-safe."""

    def __init__(self, pool: Pool, books: Books, slack: float, heart: Heartbeat, loop_heart: Heartbeat) -> None:
        self._pool = pool
        self._books = books
        self._slack = slack
        self._heart, self._loop_heart = heart, loop_heart
        self._lock = threading.Lock()
        self._lent: dict[PooledConnection, Lease] = {}
        self._checkout, self._checkout_async = pool.checkout, pool.checkout_async
        self._checkin, self._discard = pool.checkin, pool.discard
        for name in ("checkout", "checkout_async", "checkin", "discard"):
            setattr(pool, name, getattr(self, name))

    def forget(self) -> None:
        """What `close_stale` has ended is not returned by whoever had it."""
        self._lent.clear()

    def checkout(self, **options: Any) -> Lease:
        doubts = self._doubts()
        with Timer(self._books, f"checkout{_where()}", self._limit(), self._heart):
            lease = self._checkout(**options)
        self._note_lent(lease, doubts)
        return lease

    async def checkout_async(self) -> Lease:
        doubts = self._doubts()
        limit = (self._pool.options.timeout or math.inf) + self._slack
        with Timer(self._books, "checkout_async", limit, self._heart, self._loop_heart):
            lease = await self._checkout_async()
        self._note_lent(lease, doubts)
        return lease

    def checkin(self, lease: Lease, *args: Any) -> Any:
        self._note_returned(lease)
        with Timer(self._books, f"check-in{_where()}", self._limit(), self._heart):
            return self._checkin(lease, *args)

    def discard(self, lease: Lease) -> None:
        self._note_returned(lease)
        with Timer(self._books, "discard", self._slack, self._heart):
            self._discard(lease)

    def _limit(self) -> float:
        return min(may_block_for(), self._pool.options.timeout or math.inf) + self._slack

    def _doubts(self) -> _Doubts:
        """Of the connections that are idle now: those whose peer has hung up, and those that are to be probed."""
        ledger = self._pool.ledger
        generation = ledger.generation
        idle, _ = ledger.everything()
        return _Doubts(
            {pooled for pooled in idle if _state(pooled)[0] != _ESTABLISHED},
            {pooled: _state(pooled)[1] for pooled in idle if pooled.generation < generation},
        )

    def _note_lent(self, lease: Lease, doubts: _Doubts) -> None:
        pooled = lease.pooled
        with self._lock:
            other = self._lent.get(pooled)
            self._lent[pooled] = lease
        if other is not None:
            self._books.violate(f"a connection is in two leases: {other!r} and {lease!r}")
        status = pooled.driver.status(pooled.connection)
        if status in (Status.IN_TRANSACTION, Status.FAILED, Status.BUSY):
            self._books.violate(f"a connection was lent {status.name} to {lease!r}")
        if pooled in doubts.dead:
            self._books.violate("a connection was lent whose peer had hung up before it was asked for")
        if pooled in doubts.suspect:
            state, received = _state(pooled)
            if state == _ESTABLISHED and received == doubts.suspect[pooled]:
                self._books.violate("a suspect connection was lent without a probe")

    def _note_returned(self, lease: Lease) -> None:
        with self._lock:
            if self._lent.get(lease.pooled) is lease:
                del self._lent[lease.pooled]


class _Doubts(NamedTuple):
    dead: set[PooledConnection]
    suspect: dict[PooledConnection, int]


def _where() -> str:
    return " on a loop" if may_block_for() < math.inf else ""


def _state(pooled: PooledConnection) -> tuple[int, int]:
    """The state of a connection as the kernel sees it, and how many bytes have come from the server."""
    fileno = pooled.driver.fileno(pooled.connection)
    if fileno is None:
        return 0, 0
    try:
        with socket.socket(fileno=os.dup(fileno)) as ours:
            info = ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED.stop)
    except OSError:
        return 0, 0
    return info[0], int.from_bytes(info[_BYTES_RECEIVED], sys.byteorder)
