"""What the pool has to know of each DB-API driver beyond PEP 249."""

from __future__ import annotations

import enum
from contextlib import closing
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
