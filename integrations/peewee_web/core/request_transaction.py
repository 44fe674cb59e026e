"""The transaction that an atomic scope is: begun with its connection, ended with the request."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from .drivers import Status
from .errors import ScopeError
from .places import described
from .transactions import status_of, was_in_transaction

if TYPE_CHECKING:
    from .connections import ScopedConnections
    from .state import ScopedState


def begin(database: ScopedConnections, state: ScopedState) -> None:
    """Begin it on the connection of *state*, unless a transaction is open there: the app's own, or this one."""
    with state:
        if not was_in_transaction(status_of(state), state.transactions, state.transaction_place):
            transaction = database.transaction()
            transaction.__enter__()
            state.request_transaction = transaction
            if state.open_transaction is not None:  # it lasts for longer than any function that may be run again
                state.begin_transaction(state.open_transaction.place, None)
            state.keep_open()  # no `with db:` block may close it under the transaction


def finish(database: ScopedConnections, state: ScopedState, commit: bool) -> None:
    """Commit or roll back, if it has not been ended already. Raises what the commit raises, when it is rolled back."""
    with state:
        transaction, state.request_transaction = state.request_transaction, None
        if transaction is None or transaction not in state.transactions:
            return
        complaint = _why_not_to_commit(state, transaction) if commit else None
        state.transactions.clear()
        callbacks, state.commit_callbacks = state.commit_callbacks, []
        if not commit:
            _roll_back(database, state)
            return
        try:
            if complaint is not None:
                raise ScopeError(complaint)
            database.commit()
        except BaseException:
            _roll_back(database, state)
            raise
    for callback in callbacks:  # after the turn: they may wait for others who use the connection
        callback()


def _why_not_to_commit(state: ScopedState, transaction: object) -> str | None:
    if state.transactions[-1] is not transaction:
        place = state.transaction_place
        return (
            "a transaction inside the request's own was left open, so the whole is rolled back "
            f"(the request's began at {described(place) if place else 'an unknown place'})"
        )
    if status_of(state) is Status.FAILED:
        return (
            "a statement of the request's transaction failed, and the app went on; PostgreSQL has undone "
            "the whole. Wrap what may fail in `with db.atomic():`"
        )
    return None


def _roll_back(database: ScopedConnections, state: ScopedState) -> None:
    with suppress(Exception):
        database.rollback()
        if not database.is_connection_lost():
            return
    database.discard(state)
