"""How many connections there are: as the pool says, as the kernel sees them, and as the server counts them."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

from tests.servers.child import ServerProcess
from tests.servers.proxy import TcpProxy
from tests.stress.books import Books, Heartbeat, Timer

# proc(5) and the kernel's tcp_states.h: ESTABLISHED, SYN_SENT, CLOSE_WAIT. In any other state our end is closed, or
# shut down: no connection of ours any more, whatever the server, which may be frozen, has noticed of it.
_OURS = frozenset({"01", "02", "08"})
# Seconds that what needs no network may take.
_AT_ONCE = 0.5


def client_ports(port: int) -> set[int]:
    """The local ports of this machine's open connections to 127.0.0.1:*port*."""
    found = set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state = line.split()[:4]
        if int(remote.partition(":")[2], 16) == port and state in _OURS:
            found.add(int(local.partition(":")[2], 16))
    return found


class Census:
    """Counts for the length of a ``with`` block, in threads of its own, one of which is the heart."""

    def __init__(
        self, server: ServerProcess, name: str, proxy: TcpProxy, database: Any, books: Books, heart: Heartbeat
    ) -> None:
        self._server = server
        self._name = name
        self._proxy = proxy
        self._pool = database.pool
        self._limit = database.pool.options.max_connections
        self._books = books
        self._heart = heart
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._beat, name="stress-heartbeat"),
            threading.Thread(target=self._count_here, name="stress-census"),
            threading.Thread(target=self._count_there, name="stress-census-server"),
        ]

    def __enter__(self) -> Census:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _beat(self) -> None:
        while not self._over.wait(0.02):
            self._heart.beat()

    def _count_here(self) -> None:
        while not self._over.wait(0.01):
            with Timer(self._books, "the pool's figures", _AT_ONCE, self._heart):
                stats = self._pool.stats()  # which takes its lock: nobody may hold that over a network call
            self._books.counted("the pool", stats.size, self._limit)
            if stats.in_use + stats.idle > stats.size:
                self._books.violate(f"more connections in use and idle than there are: {stats}")
            self._books.counted("the kernel", self._open_sockets(), self._limit)

    def _open_sockets(self) -> int:
        count = len(client_ports(self._proxy.port))
        # The table is not read at one moment: what was closed and what took its place may both be in it.
        return count if count <= self._limit else min(len(client_ports(self._proxy.port)) for _ in range(3))

    def _count_there(self) -> None:
        while not self._over.wait(0.2):
            gc.collect()  # with most threads waiting, little is allocated, and forgotten scopes would go on for seconds
            try:
                at_the_server = self._server.client_ports(self._name)
            except Exception:  # it is down
                continue
            # Asked afterwards: what is open at our end now was open when the server counted it. The server also has
            # sessions whose client has left while it was frozen, or the link was.
            routes = self._proxy.routes()
            ours = client_ports(self._proxy.port)
            self._books.counted("the server", sum(routes.get(port) in ours for port in at_the_server), self._limit)
