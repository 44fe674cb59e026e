"""The drivers of MySQL and MariaDB."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from .port import BUSY, IDLE, IN_TRANSACTION, LOST, UNKNOWN, Driver, Status

# MySQL client/server protocol, status flags. Only answers that report success carry them, so they can be out of date:
# after an error, and with autocommit off, where any statement may have begun a transaction before it failed.
_SERVER_STATUS_IN_TRANS = 0x0001
_SERVER_STATUS_AUTOCOMMIT = 0x0002
_SERVER_MORE_RESULTS_EXIST = 0x0008
# MySQL error numbers: server gone, connection lost during a query, and the same with the system's reason.
_MYSQL_GONE = frozenset({2006, 2013, 2055})


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


class _KeepsSession(_MySQL, ABC):
    """A driver whose `ping` opens a new session where the app has asked for reconnecting, and says nothing of it.

    (Seen with MariaDB Connector 1.1; of mysqlclient its documentation says so, depending on the client library.)
    """

    @abstractmethod
    def _session(self, connection: Any) -> Any:
        """The server's number of it."""

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
