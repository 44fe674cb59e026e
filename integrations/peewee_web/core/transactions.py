"""What is known of a transaction besides what Peewee keeps: whether one is open, and where in the app it began."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from peewee import InterfaceError, OperationalError, _manual, _savepoint

from . import fork
from .drivers import Status
from .places import Place, described
from .state import ConnectionState

logger = logging.getLogger("peewee_web")


class ScopedSavepoint(_savepoint):
    """Peewee's, but rolling back to it raises no error where the connection is lost, as `rollback()` does not."""

    def __enter__(self) -> ScopedSavepoint:
        self._forks = fork.count
        super().__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._forks == fork.count:  # else it is one of the parent's transaction
            super().__exit__(exc_type, exc, traceback)

    def rollback(self, begin: bool = True) -> None:
        try:
            super().rollback(begin)
        except (InterfaceError, OperationalError):
            if not self.db.is_connection_lost():
                raise


def status_of(state: ConnectionState) -> Status:
    """What the driver says of the connection of *state*. Without one there is nothing open."""
    if state.lease is None:
        return Status.IDLE if state.conn is None else Status.UNKNOWN
    return state.lease.pooled.driver.status(state.conn)


def commits_by_itself(connection: Any) -> bool:
    """Whether statements outside transactions are committed at once, as Peewee expects of a connection.

    (An app may have switched that off: then any statement may have begun a transaction.)
    """
    try:
        get = getattr(connection, "get_autocommit", None)  # PyMySQL, mysqlclient
        return bool(get() if get is not None else getattr(connection, "autocommit", True))
    except Exception:  # it is closed
        return True


def is_in_transaction(state: ConnectionState) -> bool:
    """Whether statements in *state* are part of something that only one connection can go on with.

    Not so in a ``manual_commit()`` block as such, which begins no transaction.
    """
    return state.open_transaction is not None or any(not isinstance(each, _manual) for each in state.transactions)


def was_in_transaction(status: Status, transactions: Sequence[object], place: Place | None) -> bool:
    """Whether a connection is, or was, in a transaction: *status* says so, or else what is remembered of it.

    (What Peewee and this package remember is second best: a transaction may have been begun or ended in SQL.)
    """
    if status is Status.IDLE:
        return False
    return status in (Status.IN_TRANSACTION, Status.FAILED) or bool(transactions) or place is not None


def warn_of_open_transaction(place: Place | None) -> None:
    where = "an unknown place" if place is None else described(place)
    logger.warning("a transaction opened at %s was left open; it is rolled back", where)
