"""A database server that does all that servers do to a pool, and notices what a pool must not do to its connections.

It lives on a `Stage`: each network call is a place where others may go on, and one that gets no answer waits in the
stage's time. The sockets are real, so that what is polled and shut down is what would be, and numbers are used again.
"""

from __future__ import annotations

import enum
import math
import select
import socket
from contextlib import suppress
from typing import Any

from peewee_web.core.drivers import Driver, Status
from tests.core.interleaving import Stage


class Mode(enum.Enum):
    """What a connection attempt meets."""

    UP = enum.auto()
    DOWN = enum.auto()
    REFUSING = enum.auto()
    BLACK_HOLE = enum.auto()


class Refused(Exception):
    """The server doesn't want this client: a wrong password, as it were."""


class Connection:
    """A driver's connection, and the server's end of it."""

    def __init__(self, server: Server, number: int) -> None:
        self.server = server
        self.number = number
        self.pid = server.stage.pid
        self.status = Status.IDLE
        #: Whether the session is in a state that another request must not see, unless the pool has no ``reset``.
        self.used = False
        self.closed = False
        #: Closed by the driver or the app; the pool doesn't know yet.
        self.socket_closed = False
        #: Since when the socket shows that the server has gone.
        self.died = math.inf
        #: Whether the server answers nothing any more, without a word.
        self.silent = False
        #: Whether it was ended under its user's hands, by `Pool.evict`.
        self.evicted = False
        #: Whether it was the parent's, and the child has made its own copy harmless.
        self.disowned = False
        self.talking: str | None = None
        self.socket, self._peer = socket.socketpair()

    def __repr__(self) -> str:
        return f"<Connection {self.number}{', closed' if self.closed else ''}>"

    # The server's end.

    def hang_up(self) -> None:
        if not self.silent and self.died == math.inf:
            self.died = self.server.stage.clock()
            self._peer.close()

    def notify(self) -> None:
        if self.died == math.inf and not self.silent:
            with suppress(OSError):
                self._peer.send(b"!")

    # The client's.

    def talk(self, what: str) -> None:
        """A round trip."""
        server, stage = self.server, self.server.stage
        server.check(not self.closed or self.evicted, f"{what} on a connection that was closed")
        if self.disowned:
            raise ConnectionResetError("it leads to the null device")
        server.check(self.pid == stage.pid, f"{what} on the parent's connection")
        server.check(self.talking is None, f"{what} during {self.talking} on the same connection")
        server.check_unlocked(what)
        self.talking = what
        try:
            server.pause()
            watchdogs = stage.playing.watchdogs if stage.playing is not None else []
            deadline = min((watchdog.deadline for watchdog in watchdogs), default=math.inf)
            if not stage.wait(lambda: not self.silent or self._is_shut(), deadline, interruptible=True):
                for watchdog in watchdogs:
                    watchdog.fired = watchdog.fired or stage.now >= watchdog.deadline
                self.socket.shutdown(socket.SHUT_RDWR)
            if self._is_shut() or not self._read():
                self.status = Status.LOST
                if server.drivers_close:
                    self.close_socket()
                raise ConnectionResetError(f"{self} has gone")
        finally:
            self.talking = None

    def _read(self) -> bool:
        """Take what the server has said unasked. Returns whether the connection is open still."""
        while select.select([self.socket], [], [], 0)[0]:
            if not self.socket.recv(4096):
                return False
        return True

    def _is_shut(self) -> bool:
        if self.socket_closed or self.closed or self.died < math.inf:
            return True
        try:
            return self.socket.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close_socket(self) -> None:
        """The driver, or the app, closes it past the pool."""
        self.status = Status.LOST
        self.socket_closed = True
        self.socket.close()

    def destroy(self) -> None:
        self.socket.close()
        self._peer.close()


class Server:
    """Opens and closes connections, and keeps the accounts that a pool's must agree with."""

    def __init__(self, stage: Stage, *, drivers_close: bool = False) -> None:
        self.stage = stage
        self.mode = Mode.UP
        #: Whether a driver closes the socket as soon as it finds it dead, as PyMySQL does.
        self.drivers_close = drivers_close
        #: Seconds that an attempt may take.
        self.patience = 10.0
        #: The most connections that there may be now.
        self.bound = math.inf
        self.connections: list[Connection] = []
        #: Those that code of the app has a lease of.
        self.held: set[Connection] = set()
        self.is_locked = lambda: False
        self.opening = self.opened = self.failed = self.closed = self.probes = 0

    @property
    def open(self) -> list[Connection]:
        """This process's connections that the pool has not closed."""
        return [each for each in self.connections if not each.closed and each.pid == self.stage.pid]

    def check(self, holds: bool, otherwise: str) -> None:
        if not holds and not self.stage.over:
            error = AssertionError(otherwise)
            self.stage.faults.append(error)
            raise error

    def check_unlocked(self, what: str) -> None:
        """Invariant 6: no lock is held during I/O."""
        self.check(not self.is_locked(), f"{what} under the lock")

    def pause(self) -> None:
        self.stage.point(io=True)

    def connect(self) -> Connection:
        stage = self.stage
        self.check_unlocked("connect")
        self.opening += 1
        # Invariant 1: connections open and being opened are never more than max_connections.
        self.check(len(self.open) + self.opening <= self.bound, "more connections than there may be")
        pid = stage.pid
        try:
            self.pause()
            if self.mode is Mode.BLACK_HOLE:
                stage.wait(lambda: self.mode is not Mode.BLACK_HOLE, stage.now + self.patience)
            if self.mode is Mode.BLACK_HOLE:
                raise TimeoutError("no answer")
            if self.mode is Mode.DOWN:
                raise ConnectionRefusedError("nobody listens")
            if self.mode is Mode.REFUSING:
                raise Refused("not you")
            self.connections.append(Connection(self, len(self.connections)))
            self.opened += 1
            return self.connections[-1]
        except Exception:
            self.failed += pid == stage.pid
            raise
        finally:
            self.opening -= pid == stage.pid

    def close(self, connection: Connection) -> None:
        self.check_unlocked("close")
        self.check(not connection.closed, f"{connection} is closed a second time")
        self.check(connection.pid == self.stage.pid or connection.disowned, f"{connection}, the parent's, is closed")
        if self.stage.playing is not None and self.stage.playing.name == "evict":
            connection.evicted = True
        # Invariant 2, of closing: nobody loses a connection that he has a lease of.
        self.check(connection not in self.held or connection.evicted, f"{connection} is closed while it is lent")
        try:
            self.pause()
        finally:
            connection.closed = True
            connection.status = Status.LOST
            connection.socket.close()
            self.closed += not connection.disowned

    def restart(self) -> None:
        for connection in self.connections:
            connection.hang_up()

    def fork(self) -> None:
        self.opening = self.opened = self.failed = self.closed = self.probes = 0
        self.held.clear()

    def end(self) -> None:
        for connection in self.connections:
            connection.destroy()


class SimulatedDriver(Driver):
    """How the pool sees a `Connection`."""

    def __init__(self, network: bool) -> None:
        self.network = network

    def _fileno(self, connection: Any) -> int | None:
        return connection.socket.fileno() if self.network else None

    def status(self, connection: Any) -> Status:
        return Status(connection.status)

    def probe(self, connection: Any) -> None:
        connection.server.probes += 1
        connection.talk("probe")

    def execute(self, connection: Any, sql: str) -> None:
        connection.talk(sql)
        connection.used = False

    def rollback(self, connection: Any) -> None:
        connection.talk("ROLLBACK")
        connection.status = Status.IDLE
