"""Statements and transactions of a Peewee database, and what becomes of them when their connection breaks.

Outside a transaction a statement gets another connection in place of one that the server has closed, and what only
reads is run again when its connection breaks under it. All else fails, once, with the first error.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, overload

from peewee import InterfaceError, MySQLDatabase, OperationalError

from .connections import ScopedConnections
from .drivers import Status
from .errors import ConnectionLost, NoConnection, ReadOnlyScope
from .faults import first_line, is_lost_connection, is_read_only
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
from .state import ConnectionState, OpenTransaction
from .statements import Effects, effects_of
from .transactions import ScopedSavepoint, is_in_transaction, status_of
from .waiting import may_block_for

logger = logging.getLogger("peewee_web")

_NO_EFFECTS = Effects()


class _HookFailed(Exception):
    """A query hook of the app's raised ``args[0]``, after a statement that had succeeded."""


class Executing(ScopedConnections):
    """Mixin over a Peewee ``Database``. Thread-safe, and safe across coroutines."""

    #: What single statements outside transactions are run again after, unless ``retry_db_errors`` says otherwise.
    statement_retry: StatementRetry = READS_ONCE

    def _execute_cursor(self, sql: Any, params: Any, **options: Any) -> Any:
        state: ConnectionState = self._state.find()
        effects = effects_of(sql)
        journal = current_journal()
        with state:
            if journal is not None:
                journal.check(state, self)
            if effects.writes and state.read_only:
                raise ReadOnlyScope(" ".join(str(sql).split()[:2]))
            if effects.needs_state and state.lease is not None:
                state.lease.has_state = True  # another connection would not do
            try:
                cursor = self._run(state, sql, params, effects, options)
            except _HookFailed as failed:
                self._note_effects(state, sql, effects, journal)
                raise failed.args[0] from None
            except Exception as error:
                if effects.writes:  # what stands in its way was written by somebody, and is to be seen now
                    state.note_write()
                # It may have been carried out, or a part of it.
                if effects.commits or isinstance(error, ConnectionLost):
                    self._note_effects(state, sql, effects, journal)
                raise
            self._note_effects(state, sql, effects, journal)
            return cursor

    def _run(self, state: ConnectionState, sql: Any, params: Any, effects: Effects, options: dict[str, Any]) -> Any:
        begun = time.monotonic()
        with state.inside:
            try:
                return super()._execute_cursor(sql, params, **options)
            except _HookFailed:
                raise
            except Exception as error:
                # A server-side cursor is no statement: it goes on in its session.
                again = None if options else functools.partial(super()._execute_cursor, sql, params)
                return self._outlive(error, begun, state, effects, again)

    def _notify_hooks(self, sql: Any, params: Any, start: float, error: BaseException | None) -> None:
        try:
            super()._notify_hooks(sql, params, start, error)
        except Exception as failure:
            if error is None:
                raise _HookFailed(failure) from failure
            logger.exception("a query hook failed")  # the statement's own error comes first

    def _note_effects(self, state: ConnectionState, sql: Any, effects: Effects, journal: Journal | None) -> None:
        if effects.leaves_state and state.lease is not None:
            state.lease.has_state = True
        if effects.writes:
            state.note_write()
        if journal is None:
            return
        if effects.writes:
            # MySQL's manual: "Statements That Cause an Implicit Commit".
            commits = effects.commits or (effects.defines and isinstance(self, MySQLDatabase))
            journal.note_statement(state, sql, commits)
        if state.open_transaction is None and status_of(state) in (Status.IN_TRANSACTION, Status.FAILED):
            journal.note("a transaction begun in SQL")  # where it began, and what is in it, nobody knows

    def _outlive(
        self, error: Exception, begun: float, state: ConnectionState, effects: Effects, again: Callable[[], Any] | None
    ) -> Any:
        """What *again* returns, the statement that has failed with *error*, if it may be run again; else raise.

        *begun* is when it was, in monotonic seconds.
        """
        for failures in itertools.count(1):
            seconds = _seconds_under_way(state, begun)
            told = self._noted(error, state)
            pause = self._pause_before_another(told, failures, seconds, state, effects)
            if again is None or pause is None:
                if told is error:
                    raise error
                raise told from error
            logger.warning("a statement is run again: %s", first_line(told))
            time.sleep(min(pause, may_block_for()))
            begun = time.monotonic()
            try:
                return again()
            except _HookFailed:
                raise
            except Exception as another:
                error = another

    def _pause_before_another(
        self, told: Exception, failures: int, seconds: float, state: ConnectionState, effects: Effects
    ) -> float | None:
        """Seconds until a statement may be run again that ran for *seconds*; None if it may not be."""
        if is_in_transaction(state):
            return None
        bound = state.lease is not None and state.lease.has_state
        return retrying_statements(self).pause(told, failures, effects, bound=bound, seconds=seconds)

    def _noted(self, error: Exception, state: ConnectionState) -> Exception:
        """What *error*, raised by a statement, is to be told as."""
        if state.lease is None or isinstance(error, NoConnection):
            return error
        state.lease.failed = True
        if is_read_only(error):
            self.pool.renew()
            if self.pool.renews and not state.lease.has_state and not is_in_transaction(state):
                state.lease.broken = True  # the next statement is to have another
        if not is_lost_connection(error):
            return error
        self.pool.note_lost(state.lease)
        return ConnectionLost(f"the connection to the database was lost: {first_line(error)}")

    # What the app does past us may leave anything in the session.

    def cursor(self, named_cursor: Any = None) -> Any:
        cursor = super().cursor(named_cursor)
        state: ConnectionState = self._state.find()
        if not state.inside or named_cursor is not None:
            _note_use(state, "the driver's own cursor")
        return cursor

    def connection(self) -> Any:
        connection = super().connection()
        state: ConnectionState = self._state.find()
        if not state.inside:
            _note_use(state, "the driver's own connection")
        return connection

    # Transactions.

    def begin(self, *args: Any, **options: Any) -> None:
        state: ConnectionState = self._state.find()
        begin = functools.partial(super().begin, *args, **options)
        with state, state.inside:
            begun = time.monotonic()
            try:
                begin()
            except Exception as error:
                # Within the first use of a connection it is that which begins anew.
                self._outlive(error, begun, state, _NO_EFFECTS, None if state.is_beginning else begin)
            state.begin_transaction(caller(), current_journal())

    def commit(self) -> None:
        state: ConnectionState = self._state.find()
        with state, state.inside:
            transaction, hooks = state.open_transaction, bool(state.commit_callbacks)
            try:
                super().commit()
            except Exception as error:
                told = self._noted(error, state)
                if told is error:
                    raise
                state.end_transaction()
                _note_commit(transaction, hooks)  # it may have arrived
                raise told from error
            state.end_transaction()
            _note_commit(transaction, hooks)

    def rollback(self) -> None:
        """As Peewee's, but without an error where the connection is lost: then the server rolls back by itself.

        (An error here would hide the first one, which says what happened.)
        """
        state: ConnectionState = self._state.find()
        with state, state.inside:
            if state.lease is None or not state.lease.broken:
                try:
                    super().rollback()
                except (InterfaceError, OperationalError) as error:
                    self._noted(error, state)
                    if not self.is_connection_lost():
                        raise
            state.end_transaction()

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


def _seconds_under_way(state: ConnectionState, begun: float) -> float:
    """For how long a statement ran that began at *begun*. What it waited for a connection doesn't count."""
    return time.monotonic() - (begun if state.lease is None else max(begun, state.lease.taken))


def _note_commit(transaction: OpenTransaction | None, hooks: bool) -> None:
    """Of a transaction that has ended, or may have. *hooks*: functions of the app's run after its commit."""
    if transaction is not None and transaction.journal is not None and (transaction.wrote or hooks):
        transaction.journal.note("COMMIT")


def _note_use(state: ConnectionState, what: str) -> None:
    """The app has *what*, with which it may do anything past us."""
    state.note_write()
    if state.lease is not None:
        state.lease.has_state = True
    journal = current_journal()
    if journal is not None:
        journal.note(what)
