"""A database server without a server, and a clock that goes when told: for what a pool decides, and when.

Each connection has a real socket, as the pool polls it and its watchdog shuts it down; whatever else a server is, is a
few attributes here, which a test sets.
"""

from __future__ import annotations

import contextvars
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from peewee_web.core.drivers import Driver, Status
from peewee_web.core.options import PoolOptions
from peewee_web.core.pool import Lease, Pool
from tests.core.working import PATIENCE, Working
from tests.servers.waiting import until


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._running_since: float | None = None

    def __call__(self) -> float:
        return self.now if self._running_since is None else self.now + time.monotonic() - self._running_since

    def run(self) -> None:
        """From now on, time passes by itself as well."""
        self._running_since = time.monotonic()

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Connection:
    """What a driver calls a connection, and the server's end of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        #: What the driver says of it.
        self.status = Status.IDLE
        self.closed = False
        #: Whether round trips get no answer.
        self.frozen = False
        #: What the server was asked, in that order.
        self.received: list[str] = []
        self.socket, self._peer = socket.socketpair()

    def __repr__(self) -> str:
        return f"<Connection {self.number}{', closed' if self.closed else ''}>"

    def send(self, what: str) -> None:
        """A round trip. While frozen it ends when somebody shuts the socket down."""
        self.received.append(what)
        if self.frozen:
            self.socket.settimeout(PATIENCE)
            self.socket.recv(1)
            raise ConnectionResetError("shut down while it waited for an answer")
        self.socket.setblocking(False)
        try:
            if self.socket.recv(4096) == b"":
                self.status = Status.LOST
                raise ConnectionResetError("the server has hung up")
        except BlockingIOError:  # it has said nothing unasked
            pass

    def notify(self) -> None:
        """The server says something unasked."""
        self._peer.send(b"!")

    def hang_up(self) -> None:
        """The server ends the session. The driver notices at the next round trip."""
        self._peer.close()

    def close(self) -> None:
        self.closed = True
        self.status = Status.LOST
        self.socket.close()
        self._peer.close()


class Server:
    """Makes connections, as told. Thread-safe."""

    def __init__(self) -> None:
        #: All that were ever opened, in that order.
        self.connections: list[Connection] = []
        #: What the next attempts fail with, if anything.
        self.refusal: BaseException | None = None
        #: How many attempts are under way, and whether they get on.
        self.connecting = 0
        self.accepting = threading.Event()
        self.accepting.set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def alive(self) -> list[Connection]:
        """Those that nobody has closed."""
        return [connection for connection in self.connections if not connection.closed]

    def connect(self) -> Connection:
        with self._lock:
            self.connecting += 1
        try:
            assert self.accepting.wait(PATIENCE)
            if self.refusal is not None:
                raise self.refusal
            with self._lock:
                if self._closed:
                    raise ConnectionRefusedError("the test is over")
                self.connections.append(Connection(len(self.connections)))
                return self.connections[-1]
        finally:
            with self._lock:
                self.connecting -= 1

    def close(self) -> None:
        """Leave no socket open, and open no other for an attempt that comes late."""
        with self._lock:
            self._closed = True
        for connection in self.connections:
            connection.close()


class SimulatedDriver(Driver):
    """How the pool sees a `Connection`."""

    def __init__(self, network: bool = True) -> None:
        self.network = network

    def _fileno(self, connection: Any) -> int:
        return int(connection.socket.fileno())

    def status(self, connection: Any) -> Status:
        return Status(connection.status)

    def probe(self, connection: Any) -> None:
        connection.send("probe")

    def execute(self, connection: Any, sql: str) -> None:
        connection.send(sql)

    def rollback(self, connection: Any) -> None:
        connection.send("ROLLBACK")
        connection.status = Status.IDLE


def in_background(attempt: Callable[[], None]) -> None:
    """Begin a connection attempt in a thread of its own, as a pool does where nobody says otherwise."""
    threading.Thread(target=attempt).start()


class HeldAttempts:
    """Connection attempts that do not go on before the test says so: to be given as *start*."""

    def __init__(self) -> None:
        self.begun: list[Callable[[], None]] = []

    def __call__(self, attempt: Callable[[], None]) -> None:
        self.begun.append(attempt)

    def run(self, number: int) -> None:
        """Go on with that one, once it has been begun."""
        until(lambda: len(self.begun) > number)
        self.begun[number]()


class Simulation:
    """A pool on a simulated server, by a simulated clock.

    Connection attempts run where they are begun, unless *start* says otherwise; those that are put off, when the clock
    is advanced with `pass_time`. *more* goes to the `Pool`.
    """

    def __init__(
        self,
        *,
        start: Callable[[Callable[[], None]], None] = lambda attempt: attempt(),
        network: bool = True,
        more: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.clock = Clock()
        self.server = Server()
        self.start = start
        #: What was put off, and until when.
        self.put_off: list[tuple[float, Callable[[], None]]] = []
        driver = SimulatedDriver(network)
        self.pool = Pool(
            self.server.connect,
            PoolOptions(**options),
            find_driver=lambda connection: driver,
            clock=self.clock,
            start=self._run,
            **(more or {}),
        )

    def _run(self, work: Callable[[], None], delay: float) -> None:
        if delay:
            self.put_off.append((self.clock() + delay, work))
        else:
            self.start(work)

    def pass_time(self, seconds: float) -> None:
        """Have time pass, and do meanwhile what was put off until then."""
        end = self.clock.now + seconds
        while self.put_off and (earliest := min(self.put_off, key=lambda entry: entry[0]))[0] <= end:
            self.put_off.remove(earliest)
            self.clock.now = earliest[0]
            self.start(earliest[1])
        self.clock.now = end

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.close()

    def lend(self, count: int) -> list[Lease]:
        return [self.pool.checkout() for _ in range(count)]

    def fill(self, count: int) -> list[Connection]:
        """Have so many idle connections. The first is the one that is idle for longest."""
        leases = self.lend(count)
        for lease in leases:
            self.pool.checkin(lease)
        return [lease.connection for lease in leases]

    def waiting(self, work: Callable[[], Any] | None = None) -> Working:
        """A checkout, or other *work*, in a thread of its own that has just joined the queue."""
        before = self.pool.stats().waiting
        working = Working(contextvars.Context(), self.pool.checkout if work is None else work)
        until(lambda: self.pool.stats().waiting == before + 1)
        return working
