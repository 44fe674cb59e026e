"""A connection attempt that ends by itself, whatever the peer does and whatever the driver; and TCP keepalive.

libpq and psycopg bound a whole attempt themselves. PyMySQL's time limit covers TCP only, those of the other MySQL
drivers end somewhere within the login (seen: mysqlclient 2.3, MySQL Connector 9.7, MariaDB Connector 1.1), and none
minds a byte a second. There a watchdog shuts the socket down.
"""

from __future__ import annotations

import _socket
import math
import os
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import peewee
from peewee import MySQLDatabase, OperationalError, PostgresqlDatabase

from .watchdog import Alarm, Watchdog, shut_down

# libpq took 1 for 2 until version 17, psycopg 3 does.
_LIBPQ_LEAST = 2
# libpq's tcp_user_timeout came with its version 12.
_LIBPQ_WITH_USER_TIMEOUT = 120000
# Questions that the kernel asks before it gives a silent connection up.
_QUESTIONS = 3
# Seconds between two looks for the socket of a driver that doesn't show it. It may try several addresses.
_LOOK_AGAIN = 0.1
# Seconds; the thread has nothing left to do by then but to end.
_PATIENCE = 1.0
# MySQL Connector's own, which Peewee's exception wrapper doesn't know: they derive from nothing but its `Error`.
_TIMED_OUT = frozenset({"ConnectionTimeoutError", "ReadTimeoutError", "WriteTimeoutError"})

_turns: dict[Hashable, threading.Lock] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_turns.clear)  # whoever had a turn is not there


def open_connection(database: Any, open_: Callable[[], Any], timeout: float, keepalive: float | None) -> Any:
    """Open a connection of *database*, a Peewee one, by *open_*, which is what its class does in ``_connect``.

    The attempt ends within about *timeout* seconds (libpq: whole seconds, two at least) for each address that the
    host has, or within the driver's own limit where the app set one. Looking up the host's name is the system's affair.

    *keepalive* seconds after the peer's last sign of life the kernel begins to ask for one; after twice as many it
    ends the connection, and with it a query that waits for an answer. It does so too when the peer lives but takes
    no data for so long (``TCP_USER_TIMEOUT``). ``None`` leaves the system's settings alone.

    Parameters of the driver that the app has not set are set in ``database.connect_params``. Raises what *open_*
    raises, and `peewee.OperationalError` where the server did not answer in time. Thread-safe.
    """
    timeout = timeout if timeout > 0 else math.inf
    if isinstance(database, PostgresqlDatabase):
        _set_libpq_parameters(database, timeout, keepalive)
        try:
            return open_()
        except Exception as error:
            # psycopg (seen: 3.3.9) leaves the socket of an attempt that timed out to the garbage collector. It is held
            # by the frame of its `connect`, which the error refers to, and by the error, which that frame refers to.
            traceback.clear_frames(error.__traceback__)
            raise
    if not isinstance(database, MySQLDatabase):
        return open_()
    opens = _class_that_opens(database)
    timeout = _set_mysql_timeout(database, opens, timeout)
    try:
        if opens is MySQLDatabase and getattr(getattr(peewee, "mysql", None), "__name__", "") == "pymysql":
            return _open_pymysql(database, timeout, keepalive)
        return _open_blindly(database, open_, timeout, keepalive)
    except Exception as error:
        if type(error).__name__ in _TIMED_OUT:
            raise _no_answer(timeout) from error
        raise


def _no_answer(timeout: float) -> OperationalError:
    text = f"the server did not answer within {timeout:.1f} s"
    return OperationalError(TimeoutError(text), text)  # the first becomes `orig`


def _class_that_opens(database: Any) -> type | None:
    """The class whose ``_connect`` runs, ours aside."""
    package = __name__.partition(".")[0]
    classes = (cls for cls in type(database).__mro__ if "_connect" in vars(cls))
    return next((cls for cls in classes if cls.__module__.partition(".")[0] != package), None)


def _whole(seconds: float, least: int = 1) -> int:
    return max(least, math.ceil(seconds))


# libpq.


def _set_libpq_parameters(database: Any, timeout: float, keepalive: float | None) -> None:
    parameters = {}
    if timeout < math.inf and "PGCONNECT_TIMEOUT" not in os.environ:
        parameters["connect_timeout"] = _whole(timeout, _LIBPQ_LEAST)
    if keepalive is not None:
        # For a Unix socket libpq ignores them.
        parameters |= {"keepalives": 1, "keepalives_idle": _whole(keepalive)}
        parameters |= {"keepalives_interval": _interval(keepalive), "keepalives_count": _QUESTIONS}
        if _libpq_version() >= _LIBPQ_WITH_USER_TIMEOUT:
            parameters["tcp_user_timeout"] = _user_timeout(keepalive)
    given = database.connect_params
    # A parameter beside a connection string would win over the same one in it.
    strings = [text for text in (database.database, given.get("dsn"), given.get("conninfo")) if isinstance(text, str)]
    for name, value in parameters.items():
        if not any(name in text for text in strings):
            _set_default(database, name, value)


def _set_default(database: Any, name: str, value: int) -> Any:
    """Set a driver's parameter unless the app has; the value that counts."""
    given, ours = database.connect_params, vars(database).setdefault("_dialling_parameters", {})
    if name not in given or (name in ours and given[name] == ours[name]):
        given[name] = ours[name] = value
    return given[name]


def _libpq_version() -> int:
    """The oldest libpq that may be asked, of the drivers in use."""
    versions = []
    if psycopg2 := sys.modules.get("psycopg2"):
        versions.append(getattr(psycopg2, "__libpq_version__", 0))
    if pq := sys.modules.get("psycopg.pq"):
        versions.append(pq.version())
    return min(versions, default=0)


def _interval(keepalive: float) -> int:
    return max(1, round(keepalive / _QUESTIONS))


def _user_timeout(keepalive: float) -> int:
    """In milliseconds. It counts in place of the number of questions, also while data is on its way (tcp(7))."""
    return 1000 * (_whole(keepalive) + _QUESTIONS * _interval(keepalive))


# MySQL and MariaDB.


def _set_mysql_timeout(database: Any, opens: type | None, timeout: float) -> float:
    """Have the driver bound what it can; the seconds that an attempt may take, the app's own where it has set them."""
    its_name = _known_classes().get(opens)
    given, ours = database.connect_params, None
    if its_name and timeout < math.inf and not (its_name == "connection_timeout" and "connect_timeout" in given):
        ours = _whole(timeout)
        _set_default(database, its_name, ours)
    own = given.get("connect_timeout") or given.get("connection_timeout")
    return timeout if own in (None, 0, ours) else float(own)


def _known_classes() -> dict[type | None, str]:
    """Peewee's classes with the name that their driver has for its time limit. Of another we don't know its driver."""
    extensions = sys.modules.get("playhouse.mysql_ext")
    known: dict[type | None, str] = {MySQLDatabase: "connect_timeout"}
    if extensions is not None:
        known[extensions.MySQLConnectorDatabase] = "connection_timeout"
        known[extensions.MariaDBConnectorDatabase] = "connect_timeout"
    return known


class _Deferring:
    """*database* with ``defer_connect=True``, for Peewee's own ``_connect`` to look at."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.connect_params = {**database.connect_params, "defer_connect": True}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def _open_pymysql(database: Any, timeout: float, keepalive: float | None) -> Any:
    connection = MySQLDatabase._connect(_Deferring(database))  # type: ignore[attr-defined]
    deadline = time.monotonic() + timeout
    watchdogs: list[Watchdog] = []
    with ExitStack() as stack:

        def greet() -> Any:
            """In place of the first method that reads from the new socket."""
            del connection._get_server_information
            fileno = connection._sock.fileno()
            _keep_alive(fileno, keepalive)
            watchdogs.append(stack.enter_context(Watchdog(fileno, deadline - time.monotonic())))
            return connection._get_server_information()

        connection._get_server_information = greet
        try:
            connection.connect()
        except Exception as error:
            if any(watchdog.fired for watchdog in watchdogs):
                raise _no_answer(timeout) from error
            raise
    if any(watchdog.fired for watchdog in watchdogs):  # at the last moment
        connection._force_close()
        raise _no_answer(timeout)
    return connection


def _open_blindly(database: Any, open_: Callable[[], Any], timeout: float, keepalive: float | None) -> Any:
    """Open a connection whose driver shows its socket afterwards at best.

    Of two attempts under way to the same address nobody could tell which socket is whose, so they take turns.
    """
    address = _Address(database.connect_params)
    deadline = time.monotonic() + timeout
    turn = _turns.setdefault(address.key, threading.Lock())
    if not turn.acquire(timeout=min(timeout, threading.TIMEOUT_MAX)):
        raise _no_answer(timeout)
    try:
        before = set(_sockets())
        alarm = _EndNewSockets(deadline - time.monotonic(), address, before)
        try:
            with alarm:
                connection = open_()
        except Exception as error:
            if alarm.fired:
                raise _no_answer(timeout) from error
            raise
        if alarm.fired:  # at the last moment
            with suppress(Exception):
                connection.close()
            raise _no_answer(timeout)
        if keepalive is not None:
            for fileno in address.sockets_but(before):
                _keep_alive(fileno, keepalive)
        return connection
    finally:
        turn.release()


class _Address:
    """Where a MySQL driver will connect to, by its parameters."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._path = parameters.get("unix_socket")
        self._port = int(parameters.get("port") or 3306)
        host = parameters.get("host") or "localhost"
        self._local = host == "localhost"  # where the drivers in C take the default Unix socket
        self.key = self._path or (host, self._port)
        self._hosts: set[str] = set()
        if not self._path:
            with suppress(OSError):  # what is wrong with it the driver will say
                self._hosts = {
                    str(info[4][0]) for info in socket.getaddrinfo(host, self._port, type=socket.SOCK_STREAM)
                }

    def sockets_but(self, others: set[tuple[int, int]]) -> Iterator[int]:
        """The descriptors of this process's sockets that lead there."""
        for fileno, _ in set(_sockets()) - others:
            with suppress(OSError), _twin_of(fileno) as twin:
                if self._is(twin.getpeername()):
                    yield fileno

    def _is(self, peer: Any) -> bool:
        if isinstance(peer, tuple):
            return peer[1] == self._port and peer[0] in self._hosts
        return peer == self._path or (self._local and not self._path and str(peer).endswith(".sock"))


class _EndNewSockets(Alarm):
    """Shuts down the sockets that lead to *address* and were not there *before*, until the block is done."""

    def __init__(self, seconds: float, address: _Address, before: set[tuple[int, int]]) -> None:
        super().__init__(seconds)
        self._address = address
        self._before = before

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self.fired:
            self.wait_until_rung(_PATIENCE)  # a socket that comes now may be somebody else's

    def ring(self) -> None:
        while True:
            for fileno in self._address.sockets_but(self._before):
                shut_down(fileno)
            if self.over.acquire(True, _LOOK_AGAIN):
                self.over.release()
                return


def _sockets() -> Iterator[tuple[int, int]]:
    """This process's sockets, each as its descriptor and its inode: a number may be used again."""
    with suppress(OSError):  # a system without such a directory
        for name in os.listdir("/dev/fd"):
            with suppress(OSError):  # closed meanwhile
                status = os.fstat(int(name))
                if stat.S_ISSOCK(status.st_mode):
                    yield int(name), status.st_ino


# Keepalive.


def _keep_alive(fileno: int, keepalive: float | None) -> None:
    """As libpq's parameters do, for the socket behind *fileno*; nothing for a Unix socket."""
    if keepalive is None:
        return
    seconds = {"TCP_KEEPIDLE": _whole(keepalive), "TCP_KEEPALIVE": _whole(keepalive)}  # the second is macOS's name
    others = {"TCP_KEEPINTVL": _interval(keepalive), "TCP_KEEPCNT": _QUESTIONS}
    with suppress(OSError), _twin_of(fileno) as twin:
        if twin.family in (_socket.AF_INET, _socket.AF_INET6):
            twin.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
            for name, value in {**seconds, **others, "TCP_USER_TIMEOUT": _user_timeout(keepalive)}.items():
                if hasattr(_socket, name):
                    twin.setsockopt(_socket.IPPROTO_TCP, getattr(_socket, name), value)


@contextmanager
def _twin_of(fileno: int) -> Iterator[_socket.socket]:
    """The socket behind *fileno* as one that can be closed. Not `socket.socket`: see `Alarm`."""
    descriptor = os.dup(fileno)
    try:
        twin = _socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise
    try:
        yield twin
    finally:
        twin.close()
