"""What is known of a transaction besides what Peewee keeps: whether one is open, and where in the app it began."""

from __future__ import annotations

import logging
import sys

from peewee import InterfaceError, OperationalError, _savepoint

from .drivers import in_transaction
from .state import ConnectionState

logger = logging.getLogger("peewee_web")


class ScopedSavepoint(_savepoint):
    """Peewee's, but rolling back to it raises no error where the connection is lost, as `rollback()` does not."""

    def rollback(self, begin: bool = True) -> None:
        try:
            super().rollback(begin)
        except (InterfaceError, OperationalError):
            if not self.db.is_connection_lost():
                raise


def has_open_transaction(state: ConnectionState) -> bool:
    known = in_transaction(state.conn) if state.conn is not None else False
    # What Peewee and this file remember is second best: a transaction may have been ended in SQL.
    return bool(state.transactions) or state.transaction_place is not None if known is None else known


def warn_of_open_transaction(place: str | None) -> None:
    logger.warning("a transaction opened at %s was left open; it is rolled back", place or "an unknown place")


def place_of_caller() -> str:
    """``file:line`` of the nearest frame that is neither Peewee's nor ours."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "").partition(".")[0]
        if module not in ("peewee", "playhouse", "peewee_web", "contextlib"):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
