"""What takes time about a pool's connections coming and going: opening them in the background, and closing them.

How many, for whom and when is the ledger's to say; it is told here how that went, and what it asks for then is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from . import fork
from .drivers import Driver
from .faults import first_line, is_outage
from .lease import Origin, PooledConnection
from .ledger import Ledger, Next
from .watchdog import shut_down

logger = logging.getLogger("peewee_web")


class Connector:
    """Opens and closes connections for one *ledger*. The parameters are explained in `Pool`."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        open_connection: Callable[[], Any],
        close_connection: Callable[[Any], object],
        inline: bool,
        find_driver: Callable[[Any], Driver],
        clock: Callable[[], float],
        start: Callable[[Callable[[], None], float], None],
        unreachable: Callable[[BaseException], object],
    ) -> None:
        self._ledger = ledger
        self._open = open_connection
        self._close = close_connection
        self._inline = inline
        self._find_driver = find_driver
        self._clock = clock
        self._start = start
        self._retired = False
        self._unreachable = unreachable

    def retire(self) -> None:
        """Begin no further attempt, and close what those under way open."""
        self._retired = True
        self._ledger.outdate()

    def carry_out(self, next_: Next, *, for_caller: bool = False) -> None:
        """Do what the ledger asks for. *for_caller*: it is the caller who would wait for the connection."""
        for waiter in next_.waiters:
            waiter.wake()
        for _ in range(next_.attempts):
            if next_.delay:
                try:
                    self._start(self._attempt_later, next_.delay)
                except RuntimeError:  # no thread can be started now; whoever waits looks again
                    self._ledger.call_off()
            elif for_caller and self._inline:
                self._attempt(inline=True)
            else:
                self.start(self._attempt)

    def start(self, work: Callable[[], None]) -> None:
        """Run *work* in the background; here, where no thread can be started: the interpreter may be shutting down."""
        try:
            self._start(work, 0.0)
        except RuntimeError:
            work()

    def resume(self) -> None:
        """Begin the attempts that waiters need, if an earlier one could not be begun."""
        self.carry_out(self._ledger.resume(self._clock()), for_caller=True)

    def _attempt_later(self) -> None:
        if self._ledger.is_attempt_wanted():
            self._attempt()

    def _attempt(self, inline: bool = False) -> None:
        """Open one connection for whoever is first in the queue when it is there."""
        origin = self._ledger.origin()
        if self._retired:
            return
        fork.close_inherited()
        try:
            connection = self._open()
            now = self._clock()
            pooled = self.wrap(connection, origin, now)
        except BaseException as error:
            if inline and not isinstance(error, Exception):  # that is for this thread, not for a waiter
                self.carry_out(self._ledger.broken_off(self._clock()))
                raise
            self._report_failure(error)
        else:
            self._report_success(pooled, now)

    def _report_success(self, pooled: PooledConnection, now: float) -> None:
        outage = self._ledger.outage
        wanted, next_ = self._ledger.opened(pooled, now)
        self.carry_out(next_)
        if outage is not None:
            logger.warning("the database is back after %.1f s", now - outage.since)
        if not wanted:
            self.close((pooled,))

    def _report_failure(self, error: BaseException) -> None:
        if not is_outage(error):
            self.carry_out(self._ledger.refused(error, self._clock()))
            return
        known = self._ledger.outage is not None
        self._unreachable(error)  # before those are told who don't wait: they may find another server by then
        self.carry_out(self._ledger.unreachable(error, self._clock()))
        log = logger.debug if known else logger.warning
        log("no connection to the database (%s); trying again until it is back", first_line(error))

    def wrap(self, connection: Any, origin: Origin, now: float) -> PooledConnection:
        """*connection* with what a pool knows of it. It is closed if that can't be found out."""
        try:
            return PooledConnection(connection, self._find_driver(connection), self._ledger.options, origin, now)
        except BaseException:  # such as no memory for it, or no descriptor
            with suppress(Exception):
                self._close(connection)
            raise

    def close(self, connections: Iterable[PooledConnection], *, abruptly: bool = False) -> None:
        """Close *connections*, which nobody else can reach any more. *abruptly*: without a word to the server."""
        count, interruption = 0, None
        for pooled in connections:
            count += 1
            if abruptly:
                shut_down(pooled.socket())  # a driver that wants to say good-bye to a silent peer might wait for it
            try:
                self._close(pooled.connection)
            except Exception:
                logger.debug("closing a connection failed", exc_info=True)
            except BaseException as error:  # such as gevent's Timeout: the others are still to be closed, and counted
                interruption = error
        if count:
            self.carry_out(self._ledger.closed(count, self._clock()))
        if interruption is not None:
            raise interruption


def start_thread(work: Callable[[], None], delay: float) -> None:
    """Run *work* in a thread of its own, after *delay* seconds. RuntimeError if none can be started."""

    def run() -> None:
        time.sleep(delay)
        work()

    threading.Thread(target=run if delay else work, name="peewee_web-connect", daemon=True).start()
