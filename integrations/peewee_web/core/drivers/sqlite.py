"""SQLite's drivers, which have no server at the other end."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from .port import BUSY, IDLE, IN_TRANSACTION, LOST, UNKNOWN, Driver, Status


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
