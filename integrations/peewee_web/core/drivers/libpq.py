"""The two psycopgs, over PostgreSQL's C library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from .port import BUSY, FAILED, IDLE, IN_TRANSACTION, LOST, Driver, Status

# libpq's PGTransactionStatusType: IDLE, ACTIVE, INTRANS, INERROR, UNKNOWN. The last is a bad connection's
# (fe-connect.c, PQtransactionStatus).
_LIBPQ = (IDLE, BUSY, IN_TRANSACTION, FAILED, LOST)


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
