"""What is known of a transaction besides what Peewee keeps: whether one is open, and where in the app it began."""

from __future__ import annotations

import logging

from peewee import InterfaceError, OperationalError, _savepoint

from .places import Place, described
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
    known = None
    if state.lease is not None:
        known = state.lease.pooled.driver.in_transaction(state.conn)
    # What Peewee and this package remember is second best: a transaction may have been begun or ended in SQL.
    return bool(state.transactions) or state.transaction_place is not None if known is None else known


def warn_of_open_transaction(place: Place | None) -> None:
    where = "an unknown place" if place is None else described(place)
    logger.warning("a transaction opened at %s was left open; it is rolled back", where)
