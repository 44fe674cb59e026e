"""Statements and transactions of a Peewee database, and what becomes of them when their connection breaks.

Outside a transaction a statement gets another connection in place of one that the server has closed, and what only
reads is run again when its connection breaks under it. All else fails, once, with the first error.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, overload

from peewee import InterfaceError, MySQLDatabase, OperationalError

from .connections import ScopedConnections
from .errors import ConnectionLost, NoConnection
from .faults import first_line, is_lost_connection
from .places import caller
from .retry import (
    READS_ONCE,
    F,
    FunctionRetry,
    Journal,
    OnRetry,
    StatementRetry,
    current_journal,
    retrying_statements,
)
from .state import ConnectionState
from .statements import Effects, effects_of
from .transactions import ScopedSavepoint
from .waiting import may_block_for

logger = logging.getLogger("peewee_web")

_NO_EFFECTS = Effects(writes=False, binds=False, defines=False)


class Executing(ScopedConnections):
    """Mixin over a Peewee ``Database``. Thread-safe, and safe across coroutines."""

    #: What single statements outside transactions are run again after, unless ``retry_db_errors`` says otherwise.
    statement_retry: StatementRetry = READS_ONCE

    def _execute_cursor(self, sql: Any, params: Any, **options: Any) -> Any:
        state: ConnectionState = self._state.find()
        effects = effects_of(sql)
        journal = current_journal()
        if journal is not None:
            journal.check(state, self)
        with state:
            begun = time.monotonic()
            try:
                cursor = super()._execute_cursor(sql, params, **options)
            except Exception as error:
                again = None if options else functools.partial(super()._execute_cursor, sql, params)
                try:
                    cursor = self._outlive(error, begun, state, effects, again)
                except ConnectionLost:
                    if journal is not None and effects.writes:
                        journal.note(state, sql, self._commits(effects))  # it may have been carried out
                    raise
            if not effects.reads:
                if effects.binds and state.lease is not None:
                    state.lease.bound = True
                if journal is not None and effects.writes:
                    journal.note(state, sql, self._commits(effects))
            return cursor

    def _commits(self, effects: Effects) -> bool:
        """Whether a statement commits the transaction that it is in: MySQL's manual, "Implicit Commit"."""
        return effects.defines and isinstance(self, MySQLDatabase)

    def _outlive(
        self, error: Exception, begun: float, state: ConnectionState, effects: Effects, again: Callable[[], Any] | None
    ) -> Any:
        """What *again* returns, the statement that has failed with *error*, if it may be run again; else raise.

        *begun* is when it was, in monotonic seconds.
        """
        failures = 0
        while True:
            bound = state.lease is not None and state.lease.bound
            failure = self._note_failure(error, state)
            failures += 1
            pause = None
            if again is not None and not state.is_in_transaction():
                seconds = time.monotonic() - begun
                pause = retrying_statements(self).pause(failure, failures, effects, bound=bound, seconds=seconds)
            if again is None or pause is None:
                if failure is error:
                    raise error
                raise failure from error
            logger.warning("a statement is run again: %s", first_line(failure))
            time.sleep(min(pause, may_block_for()))
            begun = time.monotonic()
            try:
                return again()
            except Exception as another:
                error = another

    def _note_failure(self, error: Exception, state: ConnectionState) -> Exception:
        """What *error*, raised by a statement, is to be told as."""
        if state.lease is None or isinstance(error, NoConnection):
            return error
        state.lease.failed = True
        if not is_lost_connection(error):
            return error
        self.pool.note_lost(state.lease)
        return ConnectionLost(f"the connection to the database was lost: {first_line(error)}")

    def begin(self, *args: Any, **options: Any) -> None:
        state: ConnectionState = self._state.find()
        begin = functools.partial(super().begin, *args, **options)
        with state:
            begun = time.monotonic()
            try:
                begin()
            except Exception as error:
                self._outlive(error, begun, state, _NO_EFFECTS, begin)
            state.transaction_place = caller()
            state.transaction_journal = current_journal()
            state.wrote = False

    def commit(self) -> None:
        state: ConnectionState = self._state.find()
        with state:
            journal: Journal | None = state.transaction_journal if state.wrote else None
            try:
                super().commit()
            except Exception as error:
                failure = self._note_failure(error, state)
                if failure is error:
                    raise
                if journal is not None:
                    journal.note_commit()  # it may have arrived
                raise failure from error
            state.transaction_place = state.transaction_journal = None
            if journal is not None:
                journal.note_commit()

    def rollback(self) -> None:
        """As Peewee's, but without an error where the connection is lost: then the server rolls back by itself.

        (An error here would hide the first one, which says what happened.)
        """
        state: ConnectionState = self._state.find()
        with state:
            if state.lease is None or not state.lease.broken:
                try:
                    super().rollback()
                except (InterfaceError, OperationalError) as error:
                    self._note_failure(error, state)
                    if not self.is_connection_lost():
                        raise
            state.transaction_place = state.transaction_journal = None

    def savepoint(self) -> Any:
        return ScopedSavepoint(self)

    # Running again.

    @overload
    def retry(self, function: F, /) -> F: ...
    @overload
    def retry(
        self,
        /,
        *,
        max_retries: int = 3,
        backoff: float = 1.0,
        retry_writes: bool = False,
        on_retry: OnRetry | None = None,
    ) -> Callable[[F], F]: ...
    def retry(
        self,
        function: Any = None,
        /,
        *,
        max_retries: int = 3,
        backoff: float = 1.0,
        retry_writes: bool = False,
        on_retry: OnRetry | None = None,
    ) -> Any:
        """`peewee_web.retry`, which refuses at once inside a transaction of this database."""
        return FunctionRetry(max_retries, backoff, retry_writes, on_retry, self).decorate(function)

    @contextmanager
    def retry_db_errors(
        self, *, max_retries: int = 3, backoff: float = 0.1, retry_writes: bool = False
    ) -> Iterator[None]:
        """Run single statements of the block again, up to *max_retries* times each, outside transactions only.

        After a lost connection, if the statement only reads, or with *retry_writes* (then a write may be carried out
        twice); after a deadlock or a serialization failure, and when no connection was to be had, any statement.
        *backoff* is the longest first pause in seconds; it doubles each time.
        """
        with StatementRetry(max_retries, backoff, retry_writes).over(self):
            yield
