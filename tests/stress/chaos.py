"""What happens to a server and to the way there: one fault after another, each mended before the next."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.servers.child import ServerProcess
from tests.servers.proxy import TcpProxy
from tests.stress.books import Books

_FEW, _MANY = 3, 1000


class Chaos:
    """Faults of *server*, of *proxy*, through which its clients come, and of the administration of *database*.

    *only* names some, if not all are to happen.
    """

    def __init__(
        self,
        server: ServerProcess,
        name: str,
        proxy: TcpProxy,
        database: Any,
        books: Books,
        dice: random.Random,
        only: tuple[str, ...] = (),
    ) -> None:
        self._server = server
        self._name = name
        self._proxy = proxy
        self._database = database
        self._books = books
        self._dice = dice
        self._over = threading.Event()
        #: How many threads are to be at work: many who wait for connections, or few, who leave most of them idle.
        self.crowd = _MANY
        self.faults: dict[Callable[[], None], int] = {
            self.kill_one: 6,
            self.kill_all: 3,
            self.stop_the_world: 4,
            self.cut: 3,
            self.reset: 3,
            self.freeze_links: 3,
            self.fall_silent: 1,
            self.black_hole: 3,
            self.refuse: 2,
            self.pull_the_cable: 2,
            self.delay: 3,
            self.restart: 1,
            self.kill_the_server: 1,
            self.close_idle: 2,
            self.close_the_pool: 2,
            self.close_stale: 2,
        }
        if only:
            self.faults = {fault: weight for fault, weight in self.faults.items() if fault.__name__ in only}

    def run(self, seconds: float, longest: float) -> None:
        """Faults of at most *longest* seconds each, until *seconds* are over. Leaves everything well."""
        self._longest = longest
        timer = threading.Timer(seconds, self._over.set)
        timer.start()
        try:
            while not self._is_over():
                (fault,) = self._dice.choices(list(self.faults), list(self.faults.values()))
                self._books.faults[fault.__name__] += 1
                self._books.happening = fault.__name__
                fault()
                self._books.happening = f"after {fault.__name__}"
        finally:
            timer.cancel()
            timer.join()
            self._mend()
            self.crowd = _MANY

    def _is_over(self) -> bool:
        """Let the apps have a short time without a fault."""
        self.crowd = self._dice.choice([_FEW, _MANY])
        return self._over.wait(self._dice.uniform(0.05, 0.5))

    def _last(self) -> None:
        """Let a fault last for a while."""
        self._over.wait(self._dice.uniform(0.2, self._longest))

    def _mend(self) -> None:
        self._server.ensure_running()
        self._proxy.thaw()
        self._proxy.delay(0)
        self._proxy.forward()

    # The server.

    def kill_one(self) -> None:
        sessions = self._server.sessions(self._name)
        if sessions:
            self._server.kill_session(self._dice.choice(sessions).pid)

    def kill_all(self) -> None:
        self._server.kill_sessions(self._name)

    def stop_the_world(self) -> None:
        self._server.freeze()
        self._last()
        self._server.thaw()

    def restart(self) -> None:
        self._server.restart(self._dice.uniform(0, 0.5))

    def kill_the_server(self) -> None:
        self._server.kill()
        self._over.wait(self._dice.uniform(0, 0.5))
        self._server.start()

    # The way there.

    def cut(self) -> None:
        self._proxy.cut()

    def reset(self) -> None:
        self._proxy.reset()

    def freeze_links(self) -> None:
        self._proxy.freeze()
        self._last()
        self._proxy.thaw()

    def fall_silent(self) -> None:
        """So long that an unbounded probe or rollback is noticed; with one lost, all are to be probed."""
        self.kill_one()
        self._proxy.freeze()
        self._over.wait(self._longest + 1.5)
        self._proxy.thaw()

    def black_hole(self) -> None:
        self._proxy.black_hole()
        if self._dice.random() < 0.5:
            self._proxy.cut()  # so that connections are asked for
        self._last()
        self._proxy.forward()

    def refuse(self) -> None:
        self._proxy.refuse()
        if self._dice.random() < 0.5:
            self._proxy.cut()
        self._last()
        self._proxy.forward()

    def pull_the_cable(self) -> None:
        self._proxy.freeze()
        self._proxy.black_hole()
        self._last()
        self._proxy.reset()
        self._proxy.forward()

    def delay(self) -> None:
        self._proxy.delay(self._dice.uniform(0.05, 0.2))
        self._last()
        self._proxy.delay(0)

    # The administrator.

    def close_idle(self) -> None:
        self._database.close_idle()

    def close_the_pool(self) -> None:
        self._database.pool.close(0.1)

    def close_stale(self) -> None:
        try:
            self._books.evicted_at = math.inf
            self._database.close_stale(self._dice.uniform(0, 1))
        finally:
            self._books.evicted_at = time.monotonic()
