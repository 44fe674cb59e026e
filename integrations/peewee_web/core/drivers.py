"""What has to be known of each DB-API driver beyond PEP 249: a `Driver` each, and nothing of pools or Peewee.

Drivers are told apart by the modules that their classes come from, so none has to be imported, or installed. What
a driver doesn't make public is read from its attributes all the same where only that tells; an attribute that a later
version has no more makes a status `UNKNOWN` or `LOST`, never `IDLE`.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any


class Status(enum.Enum):
    """What a driver knows of a connection without asking the server."""

    IDLE = enum.auto()
    """Nothing is open: fit for its next user as it is."""
    IN_TRANSACTION = enum.auto()
    """A transaction is open."""
    FAILED = enum.auto()
    """A transaction is open that can only be rolled back. PostgreSQL answers its COMMIT without an error."""
    BUSY = enum.auto()
    """A statement is under way, or a result is half read."""
    LOST = enum.auto()
    """The driver has noticed that the connection is gone, or somebody has closed it."""
    UNKNOWN = enum.auto()
    """Only a round trip can tell."""


# Names of the module, because looking one up in the class takes longer than all the rest of `status` (Python 3.10).
IDLE, IN_TRANSACTION, FAILED, BUSY, LOST, UNKNOWN = Status

# libpq's PGTransactionStatusType: IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN. The last is a bad connection's
# (fe-connect.c, PQtransactionStatus).
_LIBPQ = (IDLE, BUSY, IN_TRANSACTION, FAILED, LOST)

# MySQL client/server protocol, status flags. Only answers that report success carry them, so they can be out of date:
# after an error, and with autocommit off, where any statement may have begun a transaction before it failed.
_SERVER_STATUS_IN_TRANS = 0x0001
_SERVER_STATUS_AUTOCOMMIT = 0x0002
_SERVER_MORE_RESULTS_EXIST = 0x0008
# MySQL error numbers: server gone, connection lost during a query, and the same with the system's reason.
_MYSQL_GONE = frozenset({2006, 2013, 2055})


class Driver:
    """What the pool has to know of one DB-API driver. Stateless; as it stands, for a driver that nothing is known of.

    `fileno` and `status` ask nobody and never raise. The others are network calls, which raise what the driver raises
    and may block without bound: whoever calls them sees to a limit.
    """

    network = True
    """Whether there is a server at the other end of a socket."""
    status_after_error = UNKNOWN
    """What `IDLE` is worth after a statement has failed: an answer that reports an error may say no more than that."""

    def fileno(self, connection: Any) -> int | None:
        """The file descriptor of the connection's socket; None where there is none, or the driver doesn't show it."""
        try:
            number = self._fileno(connection)
        except Exception:  # closed, as a rule
            return None
        return number if isinstance(number, int) and number >= 0 else None

    def _fileno(self, connection: Any) -> Any:
        return None

    def status(self, connection: Any) -> Status:
        """What the driver knows. In the hot path of a check-in."""
        return UNKNOWN

    def probe(self, connection: Any) -> None:
        """One round trip; an error means that the connection is no use. Begins no transaction and never reconnects."""
        self.execute(connection, "SELECT 1")
        connection.rollback()

    def execute(self, connection: Any, sql: str) -> None:
        """Run a statement and read its result away."""
        with closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            if cursor.description:
                cursor.fetchall()

    def rollback(self, connection: Any) -> None:
        """End whatever transaction is open, also with autocommit on, where psycopg2's method does nothing."""
        connection.rollback()


class _Libpq(Driver):
    """The two psycopgs. With autocommit off they send a BEGIN before the first statement, except in `_unwrapped`."""

    status_after_error = IDLE  # it comes with each ReadyForQuery, also behind an error

    def _fileno(self, connection: Any) -> Any:
        return connection.fileno()

    def probe(self, connection: Any) -> None:
        self.execute(connection, "SELECT 1")

    def execute(self, connection: Any, sql: str) -> None:
        with _unwrapped(connection), closing(connection.cursor()) as cursor:
            cursor.execute(sql)

    def rollback(self, connection: Any) -> None:
        if connection.autocommit:
            # psycopg2's own does nothing then, psycopg's refuses inside a `with connection.transaction()`.
            self.execute(connection, "ROLLBACK")
        else:
            connection.rollback()  # psycopg2 counts for itself: after the statement alone it would send no BEGIN


@contextmanager
def _unwrapped(connection: Any) -> Iterator[None]:
    """Run the block with autocommit on. No round trip; the driver refuses it inside a transaction."""
    if connection.autocommit:
        yield
        return
    connection.autocommit = True
    try:
        yield
    finally:
        with suppress(Exception):  # the connection is lost; the first error says so
            connection.autocommit = False


class Psycopg(_Libpq):
    def status(self, connection: Any) -> Status:
        try:
            return _LIBPQ[connection.pgconn.transaction_status]
        except Exception:
            return LOST

    def execute(self, connection: Any, sql: str) -> None:
        with _unwrapped(connection), closing(connection.cursor()) as cursor:
            cursor.execute(sql, prepare=False)  # it comes often, and would become a prepared statement of the session
        if sql.upper().startswith(("DISCARD ALL", "DEALLOCATE ALL")):
            connection._prepared.clear()  # psycopg before 3.3 goes on using what the server has forgotten


class Psycopg2(_Libpq):
    def status(self, connection: Any) -> Status:
        try:
            # Of a connection that it has closed itself psycopg2 raises, of one that the server closed it may not.
            return _LIBPQ[connection.get_transaction_status()]
        except Exception:
            return LOST


def _from_flags(flags: int) -> Status:
    if flags & _SERVER_STATUS_IN_TRANS:
        return IN_TRANSACTION
    return IDLE if flags & _SERVER_STATUS_AUTOCOMMIT else UNKNOWN


class _MySQL(Driver):
    def rollback(self, connection: Any) -> None:
        # A new cursor first reads away what a procedure may have left, and PyMySQL keeps the answer for `status`.
        self.execute(connection, "ROLLBACK")


class PyMySQL(_MySQL):
    def _fileno(self, connection: Any) -> Any:
        return connection._sock.fileno()

    def status(self, connection: Any) -> Status:
        try:
            if not connection.open:
                return LOST
            result, status = connection._result, _from_flags(connection.server_status)
            # None after an error: a stored procedure may have begun a transaction, and then failed.
            if result is None:
                return UNKNOWN if status is IDLE else status
            if result.unbuffered_active:
                return BUSY
            return UNKNOWN if result.has_next else status  # PyMySQL reads the rest away before the next statement
        except Exception:
            return UNKNOWN

    def probe(self, connection: Any) -> None:
        connection.ping(reconnect=False)


class _KeepsSession(_MySQL):
    """A driver whose `ping` opens a new session where the app has asked for reconnecting, and says nothing of it.

    (Seen with MariaDB Connector 1.1; of mysqlclient its documentation says so, depending on the client library.)
    """

    def _session(self, connection: Any) -> Any:
        raise NotImplementedError

    def probe(self, connection: Any) -> None:
        before = self._session(connection)
        connection.ping()
        if self._session(connection) != before:
            raise ConnectionResetError("the session was lost, and the driver has opened another by itself")


class MySQLClient(_KeepsSession):
    """Its C structure knows whether a transaction is open; no method of it tells."""

    def _fileno(self, connection: Any) -> Any:
        return connection.fileno()

    def _session(self, connection: Any) -> Any:
        return connection.thread_id()

    def status(self, connection: Any) -> Status:
        try:
            return UNKNOWN if connection.open and connection.errno() not in _MYSQL_GONE else LOST
        except Exception:
            return UNKNOWN


class MariaDBConnector(_KeepsSession):
    """A result that an app reads row by row (``buffered=False``) is not seen, as long as the app holds the cursor."""

    def _fileno(self, connection: Any) -> Any:
        return connection._get_socket()  # not `socket`: that makes an object which closes the descriptor again

    def _session(self, connection: Any) -> Any:
        return connection.connection_id

    def status(self, connection: Any) -> Status:
        try:
            if connection._get_socket() < 0:
                return LOST
            flags = connection.server_status
        except AttributeError:
            return UNKNOWN
        except Exception:  # closed
            return LOST
        return BUSY if flags & _SERVER_MORE_RESULTS_EXIST else _from_flags(flags)


class MySQLConnector(Driver):
    """The one in Python. After an error it may take a transaction for closed that a stored procedure left open."""

    def _fileno(self, connection: Any) -> Any:
        return connection._socket.sock.fileno()

    def status(self, connection: Any) -> Status:
        try:
            if connection._socket.sock.fileno() < 0:
                return LOST
            if connection.unread_result or connection._have_next_result:
                return BUSY
            if connection.in_transaction:
                return IN_TRANSACTION
            return IDLE if connection._autocommit else UNKNOWN
        except Exception:
            return UNKNOWN

    def probe(self, connection: Any) -> None:
        connection.ping(reconnect=False)

    def rollback(self, connection: Any) -> None:
        connection.rollback()  # sends the statement in any case, without the ping that a cursor begins with


class MySQLConnectorC(MySQLConnector):
    """The C extension. It shows no file descriptor."""

    def _fileno(self, connection: Any) -> Any:
        return None

    def status(self, connection: Any) -> Status:
        try:
            native = connection._cmysql
            if not native.connected():
                return LOST
            flags = native.st_server_status()
            if native.have_result_set or flags & _SERVER_MORE_RESULTS_EXIST:
                return BUSY
            return _from_flags(flags)
        except Exception:
            return UNKNOWN


class Sqlite(Driver):
    """The standard library's module, and those that are built from its source."""

    network = False
    status_after_error = IDLE

    def status(self, connection: Any) -> Status:
        try:
            if connection.in_transaction:
                return IN_TRANSACTION
            return self._unfinished(connection)
        except Exception:  # closed
            return LOST

    def _unfinished(self, connection: Any) -> Status:
        """`BUSY` if a statement was stepped and not reset: it keeps the read snapshot that it began with."""
        try:
            # The one statement that tells and does nothing else: it fails in either case, for an active statement
            # first (vacuum.c, sqlite3RunVacuum), else for the file name, which is no text.
            connection.execute("VACUUM INTO 0")
        except Exception as error:
            text = str(error)
            if "statements in progress" in text:
                return BUSY
            if "same thread" in text:
                return UNKNOWN
        return IDLE

    def execute(self, connection: Any, sql: str) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(sql)
            cursor.fetchall()  # of a statement without a result it is empty here, where APSW has no `description`

    def probe(self, connection: Any) -> None:
        self.execute(connection, "SELECT 1")

    def rollback(self, connection: Any) -> None:
        if connection.in_transaction:  # else it is an error
            self.execute(connection, "ROLLBACK")


class Apsw(Sqlite):
    def _unfinished(self, connection: Any) -> Status:
        # sqlite3_txn_state: 0 is SQLITE_TXN_NONE. A statement that reads no table keeps no snapshot, and isn't seen.
        return BUSY if connection.txn_state() else IDLE


class CySqlite(Sqlite):
    def status(self, connection: Any) -> Status:
        return LOST if connection.is_closed() else super().status(connection)

    def _unfinished(self, connection: Any) -> Status:
        # Only a statement that a cursor holds can be active: the cheap question first.
        return super()._unfinished(connection) if connection.get_stmt_usage()[1] else IDLE


class NoDriver(Driver):
    """What is no DB-API connection, such as the numbers that an app's own tests connect with: nothing can be asked."""

    network = False

    def status(self, connection: Any) -> Status:
        return IDLE

    def probe(self, connection: Any) -> None:
        pass


_UNKNOWN_DRIVER = Driver()
_NO_DRIVER = NoDriver()
_DRIVERS: dict[str, Driver] = {
    "psycopg": Psycopg(),
    "psycopg2": Psycopg2(),
    "pymysql": PyMySQL(),
    "MySQLdb": MySQLClient(),
    "mariadb": MariaDBConnector(),
    "mysql.connector.connection_cext": MySQLConnectorC(),
    "mysql": MySQLConnector(),
    "sqlite3": Sqlite(),
    "pysqlite3": Sqlite(),
    "sqlcipher3": Sqlite(),
    "apsw": Apsw(),
    "cysqlite": CySqlite(),
}


def driver_for(connection: object) -> Driver:
    """The driver that *connection* comes from; a plain `Driver` for an unknown one, a `NoDriver` for no connection.

    An app may have put a class of its own over the driver's (psycopg2's ``connection_factory``).
    """
    driver = _driver_for_class(type(connection))  # type: ignore[arg-type]  # mypy looks for __hash__ on the wrong class
    return driver if driver is not _UNKNOWN_DRIVER or hasattr(connection, "rollback") else _NO_DRIVER


@functools.lru_cache(maxsize=256)
def _driver_for_class(cls: type) -> Driver:
    modules = [base.__module__ for base in cls.__mro__]
    names = (name for module in modules for name in (module, module.partition(".")[0]))
    return next((_DRIVERS[name] for name in names if name in _DRIVERS), _UNKNOWN_DRIVER)
